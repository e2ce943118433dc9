from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fedcore.toys import Remembered
from tests.fedcore.transport.by_workers import ByWorkers, alone


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByWorkers]:
    one = alone(tmp_path_factory.mktemp("workers"))
    many = ByWorkers(one.train, one.local, folder=one.folder)
    with many.pool:
        yield many
    assert multiprocessing.active_children() == []


@pytest.fixture
def workers(pool: ByWorkers) -> ByWorkers:
    """With new memories, and sites whose folders hold nothing."""
    for file in (pool.folder or Path()).glob("*/*.jsonl"):
        file.unlink()
    return replace(pool, memories=Remembered(), on_visit=None)
