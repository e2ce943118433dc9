"""Fixtures that every test may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image sets: `FEDPRETRAIN_DATA`, else shared/data beside the repository."""
    folder = Path(os.environ.get("FEDPRETRAIN_DATA") or _REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real images: set FEDPRETRAIN_DATA to their folder")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cache_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never read or write the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPRETRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
