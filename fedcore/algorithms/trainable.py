"""The trainable part of what travels, for algorithms that treat it differently from running statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from fedcore.errors import InputError
from fedcore.messages.tensors import Tensors
from fedcore.training.local_trainer import LocalTrainer


def trainable_names(local: LocalTrainer) -> tuple[str, ...]:
    """Names of the parameters that travel and train; without statistics, moving averages and frozen parameters."""
    names = tuple(local.shared())
    return tuple(name for name, p in local.module.named_parameters() if p.requires_grad and name in names)


def require_one_optimizer(algorithm: Any, local: LocalTrainer) -> None:
    """Raises InputError unless each step is a step of one optimizer with the gradient that callbacks see before it."""
    name, module = type(algorithm).__name__, type(local.module).__name__
    if not local.module.automatic_optimization:
        raise InputError(f"{name} needs the steps of one optimizer, but {module} calls its own; use FedAvg")
    if local.visit.precision == "16-mixed":
        raise InputError(f"{name} counts steps, and 16-mixed skips some; set visit.precision bf16-mixed")


def step_towards(mean: Tensors, current: Tensors, names: Iterable[str], eta: float) -> Tensors:
    """current + eta (mean - current) for the tensors of these names, the mean for the others; eta 1 gives exactly the
    mean.

    Statistics take no step, because one beyond the mean could make a variance negative.
    """
    return mean | {name: torch.lerp(current[name], mean[name], eta) for name in names}
