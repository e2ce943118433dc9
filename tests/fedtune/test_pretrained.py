from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedtune.pretrained import preprocessing_notes

WINDOW = "{class_path: fedcore.data.preprocess.scaling.Window, init_args: {low: -1000, high: 400}}"


def notes(tmp_path: Path, before: str, now: str, sides: int = 32) -> list[str]:
    encoder = save_encoder(tmp_path / "run" / "encoder", ResNet(2, 1, 10, 4), {"size": [32, 32]}, "")
    (tmp_path / "run" / "recipe.yaml").write_text(f"data: {before}")
    return preprocessing_notes(encoder, f"data: {now}", (sides, sides))


def test_equal_preprocessing_has_no_note(tmp_path: Path) -> None:
    assert notes(tmp_path, f"{{scaling: {WINDOW}}}", f"{{scaling: {WINDOW}, slices: null}}") == []
    assert preprocessing_notes(None, "", (8, 8)) == []


@pytest.mark.parametrize(
    ("before", "now", "sides", "text"),
    [
        ("{}", "{}", 64, "pretrained with data.size 32 x 32, this run has 64 x 64;"),
        ("{}", f"{{scaling: {WINDOW}}}", 32, "data.scaling null, this run has Window(low=-1000, high=400);"),
        ("{slices: 2}", "{}", 32, "pretrained with data.slices 2, this run has null;"),
    ],
)
def test_each_difference_is_a_note_with_both_values(
    tmp_path: Path, before: Any, now: Any, sides: int, text: str
) -> None:
    (note,) = notes(tmp_path, before, now, sides)
    assert text in note
