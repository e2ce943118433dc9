"""Runs that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fedcore.runs.folder import RunFolder


@contextmanager
def killed_in(turn: int) -> Iterator[None]:
    """A run within is killed after this round was recorded and before it was committed."""
    append = RunFolder.append

    def stopping(self: RunFolder, record: Any) -> None:
        append(self, record)
        if record.round == turn:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield
