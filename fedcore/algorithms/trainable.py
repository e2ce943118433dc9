"""What gradients move, of all that travels, for algorithms that treat it otherwise than running statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from fedcore.errors import InputError
from fedcore.messages.message import Tensors
from fedcore.training.local_trainer import LocalTrainer


def learned(local: LocalTrainer) -> tuple[str, ...]:
    """Names of the parameters that travel and train; statistics, slow copies and what is frozen are none."""
    names = tuple(local.shared())
    return tuple(name for name, p in local.module.named_parameters() if p.requires_grad and name in names)


def require_one_optimizer(algorithm: Any, local: LocalTrainer) -> None:
    """Raises InputError where a step is not one step of one optimizer with the gradient that is seen before it."""
    name, module = type(algorithm).__name__, type(local.module).__name__
    if not local.module.automatic_optimization:
        raise InputError(f"{name} follows the steps of one optimizer, but {module} steps its own; take FedAvg")
    if local.visit.precision == "16-mixed":
        raise InputError(f"{name} counts steps, of which 16-mixed leaves some out; take visit.precision bf16-mixed")


def stepped(current: Tensors, mean: Tensors, names: Iterable[str], eta: float) -> Tensors:
    """current + eta (mean - current) for what is learned, the mean for all else; at eta 1 the mean to the bit.

    A step beyond the mean may make a variance negative, so statistics never take one.
    """
    return mean | {name: torch.lerp(current[name], mean[name], eta) for name in names}
