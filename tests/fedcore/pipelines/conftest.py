from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runs import quick_galleries


@pytest.fixture(autouse=True, scope="module")
def _quick_galleries() -> Iterator[None]:
    with quick_galleries():
        yield
