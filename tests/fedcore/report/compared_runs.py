"""Runs that a page compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MakeRun = Callable[..., Path]


def runs_to_compare(make_run: MakeRun, write_scores: Callable[..., None]) -> list[Path]:
    """A pretraining and what was tuned from it and from random weights, with a tenth and with all labels."""
    folders = [make_run("moco", data="x")]
    for start in ("checkpoints/moco", None):
        for fraction in (0.1, 1.0):
            name = f"{'moco' if start else 'random'}_{fraction}"
            folders.append(make_run(name, data="x", command="finetune", rounds=2))
            pooled = 0.7 + fraction / 10 + (0.05 if start else 0.0)
            write_scores(folders[-1], encoder=start, fraction=fraction, pooled=pooled)
    return folders
