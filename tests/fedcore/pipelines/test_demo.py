from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.config.recipe_files import shipped
from fedcore.errors import InputError
from fedcore.pipelines import demo


def test_the_demo_is_the_shipped_road_in_small(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, Path]] = []
    monkeypatch.setattr(demo, "travel", lambda road, out: asked.append((road, out)) or 0)
    assert (demo.command([]), demo.command(["--out", "there"])) == (0, 0)
    assert asked == [(shipped()["demo"], Path("checkpoints/demo")), (shipped()["demo"], Path("there"))]
    assert "recipes/demo/demo.yaml" in capsys.readouterr().out


def test_it_takes_a_folder_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.command(["--help"]) == 0
    assert "usage: fedpretrain demo" in capsys.readouterr().out
    with pytest.raises(InputError, match="demo takes --out and nothing else"):
        demo.command(["--fast"])
