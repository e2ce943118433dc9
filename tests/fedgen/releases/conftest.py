from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedgen.auditing.run import audit


@pytest.fixture(scope="module")
def audited_once(one_run: Path, one_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "set"
    shutil.copytree(one_set, folder)
    audit(one_run, folder)
    return folder


@pytest.fixture
def audited(audited_once: Path, tmp_path: Path) -> Path:
    """An audited set of 64 images that a test may change."""
    return Path(shutil.copytree(audited_once, tmp_path / "set"))
