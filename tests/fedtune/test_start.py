from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedtune.start import start_notes

WINDOW = "{class_path: fedcore.data.preprocess.scaling.Window, init_args: {low: -1000, high: 400}}"


def notes(tmp_path: Path, before: str, now: str, sides: int = 32) -> list[str]:
    encoder = save_encoder(tmp_path / "run" / "encoder", ResNet(2, 1, 10, 4), {"size": [32, 32]}, "")
    (tmp_path / "run" / "recipe.yaml").write_text(f"data: {before}")
    return start_notes(encoder, f"data: {now}", (sides, sides))


def test_nothing_is_noted_where_images_are_prepared_alike(tmp_path: Path) -> None:
    assert notes(tmp_path, f"{{scaling: {WINDOW}}}", f"{{scaling: {WINDOW}, slices: null}}") == []
    assert start_notes(None, "", (8, 8)) == []


@pytest.mark.parametrize(
    ("before", "now", "sides", "told"),
    [
        ("{}", "{}", 64, "pretrained with data.size 32 x 32, this run has 64 x 64;"),
        ("{}", f"{{scaling: {WINDOW}}}", 32, "data.scaling null, this run has Window(low=-1000, high=400);"),
        ("{slices: 2}", "{}", 32, "pretrained with data.slices 2, this run has null;"),
    ],
)
def test_what_differs_is_noted_with_both_values(tmp_path: Path, before: Any, now: Any, sides: int, told: str) -> None:
    (note,) = notes(tmp_path, before, now, sides)
    assert told in note
