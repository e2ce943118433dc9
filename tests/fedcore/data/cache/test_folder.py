from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.data.cache.folder import default_folder


def test_default_folder_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPRETRAIN_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("FEDPRETRAIN_CACHE")
    assert default_folder() == Path.home() / ".cache" / "fedpretrain"
