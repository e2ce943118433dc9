from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.received.planted import CODE, STRANGER
from tests.runs import finished


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that exists once the canary's code ran."""
    mark = tmp_path / "ran"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{STRANGER}.py").write_text(CODE.format(mark=str(mark)))
    (tmp_path / "hostile.yaml").write_text(f"encoder: {STRANGER}.Net\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.chdir(tmp_path)
    yield mark
    sys.modules.pop(STRANGER, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return finished(tmp_path_factory.mktemp("made"))


@pytest.fixture
def runs(made: dict[str, Path], canary: Path) -> dict[str, Path]:
    """Copies of finished runs that a test may change."""
    return {kind: Path(shutil.copytree(path, Path("got") / kind)) for kind, path in made.items()}
