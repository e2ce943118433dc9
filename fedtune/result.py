"""What a fine-tuning run leaves behind: the model with its card, and its scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import nn

from fedcore.errors import InputError
from fedcore.files import write_atomically, write_json
from fedcore.run import RunFolder
from fedcore.store import CARD
from fedtune.card import card


def leave(run: RunFolder, module: nn.Module, model: str, scores: dict[str, Any]) -> None:
    """Writes scores.json and, beside the tensors that lie at `model`, the card."""
    write_json(run.path / "scores.json", scores)
    write_atomically(run.path / Path(model).parent / CARD, card(run, module, scores).encode())


def noted(notes: list[str]) -> list[str]:
    """The notes, which the run's page keeps, told in the terminal too."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return notes


def require_fraction(fraction: float) -> None:
    """Raises InputError before anything is trained."""
    if not 0 < fraction <= 1:
        raise InputError(f"label_fraction must lie in (0, 1], got {fraction}")
