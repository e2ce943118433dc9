from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.config.recipe_files import shipped
from fedcore.errors import InputError
from fedcore.pipelines import demo


def test_the_demo_runs_its_included_pipeline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[Path, Path]] = []
    monkeypatch.setattr(demo, "run_pipeline", lambda path, out: ran.append((path, out)) or 0)
    assert (demo.command([]), demo.command(["--out", "there"])) == (0, 0)
    assert ran == [(shipped()["demo"], Path("checkpoints/demo")), (shipped()["demo"], Path("there"))]
    assert "recipes/demo/demo.yaml" in capsys.readouterr().out


def test_its_only_option_is_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.command(["--help"]) == 0
    assert "usage: fedpretrain demo" in capsys.readouterr().out
    with pytest.raises(InputError, match="demo accepts --out only"):
        demo.command(["--fast"])
