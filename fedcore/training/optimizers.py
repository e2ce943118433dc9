"""The return value of a module's `configure_optimizers`, checked before the first visit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

SCHEDULES = (
    "a learning rate schedule, which would start again in each visit; return the optimizer alone, and set a schedule "
    "over rounds: visit.callbacks: [fedcore.training.lr_schedule.Cosine]"
)


def split_optimizers(configured: Any) -> tuple[list[Optimizer], bool]:
    """The optimizers in the return value of `configure_optimizers`, and whether it also has schedules."""
    if isinstance(configured, Mapping):
        return [configured["optimizer"]], configured.get("lr_scheduler") is not None
    if isinstance(configured, Optimizer) or configured is None:
        return [configured] if configured else [], False
    if len(configured) == 2 and all(isinstance(part, list | tuple) for part in configured):
        return list(configured[0]), bool(configured[1])
    parts = [split_optimizers(part) for part in configured]
    return [optimizer for found, _ in parts for optimizer in found], any(has_schedules for _, has_schedules in parts)
