"""Fixtures of the core's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The same examples on every machine, however busy it is.
settings.register_profile("fedpretrain", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("fedpretrain")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Sums in the same order on every machine, and no waiting for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
