"""What a module's `configure_optimizers` returns, looked at before the first visit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

SCHEDULES = (
    "a learning rate schedule, which would begin anew at each visit; return the optimizer alone, and let rates follow "
    "the rounds by a guide of the algorithm: guides: [fedcore.training.lr_schedule.Cosine]"
)


def taken_apart(made: Any) -> tuple[list[Optimizer], bool]:
    """The optimizers in what `configure_optimizers` returned, and whether schedules came with them."""
    if isinstance(made, Mapping):
        return [made["optimizer"]], made.get("lr_scheduler") is not None
    if isinstance(made, Optimizer) or made is None:
        return [made] if made else [], False
    if len(made) == 2 and all(isinstance(part, list | tuple) for part in made):
        return list(made[0]), bool(made[1])
    parts = [taken_apart(part) for part in made]
    return [optimizer for found, _ in parts for optimizer in found], any(schedules for _, schedules in parts)
