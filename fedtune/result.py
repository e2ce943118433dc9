"""Writes the result of a fine-tuning run: the scores, and the card of the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fedcore.files.writing import write_atomically, write_json
from fedcore.models.encoder_store import CARD
from fedcore.runs.folder import RunFolder
from fedtune.card import card


def save_result(
    run: RunFolder, module: nn.Module, weights: str, scores: dict[str, Any], personal_sites: Sequence[str]
) -> None:
    """Writes scores.json, and the card next to the model's weights.

    Args:
        run: Folder of the run.
        module: The trained model.
        weights: File of its weights, relative to the run.
        scores: Content of scores.json.
        personal_sites: Sites with a part of the model of their own.
    """
    write_json(run.path / "scores.json", scores)
    write_atomically(run.path / Path(weights).parent / CARD, card(run, module, scores, personal_sites).encode())


def print_notes(notes: list[str]) -> list[str]:
    """Prints the notes in the terminal, and returns them for the run's page."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return notes
