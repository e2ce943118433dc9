"""What a fine-tuning run leaves behind: the model with its card, and its scores."""

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


def leave(run: RunFolder, module: nn.Module, model: str, scores: dict[str, Any], owners: Sequence[str]) -> None:
    """Writes scores.json and, beside the tensors that lie at `model`, the card.

    `owners` are the sites that have a part of the model to themselves.
    """
    write_json(run.path / "scores.json", scores)
    write_atomically(run.path / Path(model).parent / CARD, card(run, module, scores, owners).encode())


def noted(notes: list[str]) -> list[str]:
    """The notes, which the run's page keeps, told in the terminal too."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return notes
