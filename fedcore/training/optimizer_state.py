"""The state of an optimizer, stored at the site between visits (`visit.keep_optimizer`).

Stored are the state of each parameter, and the numbers of parameter groups that the optimizer itself changes (a counter
of steps, a sum of weights). The learning rate is not stored, since callbacks set it. Numbers are stored as tensors
without dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from fedcore.errors import Refused
from fedcore.messages.tensors import Tensors

GROUP, NUMBER = "group/", "#number"
_TYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


class KeepOptimizer(Callback):
    """Restores the optimizer's state from `stored` at the start of a visit, and writes it there at the end."""

    def __init__(self, stored: Tensors):
        self.stored = stored
        self.initial: list[list[dict[str, Any]]] = []
        """For each optimizer, the numbers of its groups before the visit."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        own = _by_first_name(self.stored)
        self.initial = [_numbers(optimizer) for optimizer in trainer.optimizers]
        for o, optimizer in enumerate(trainer.optimizers):
            load_state(optimizer, own[str(o)])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stored.clear()
        for o, optimizer in enumerate(trainer.optimizers):
            self.stored |= {f"{o}/{k}": t for k, t in state_of(optimizer, self.initial[o]).items()}


def state_of(optimizer: Optimizer, initial: Sequence[Mapping[str, Any]] = ()) -> Tensors:
    """Copies of the optimizer's state: `p/name` for parameter number p, `group/g/name` for group number g.

    Args:
        optimizer: The optimizer at the end of a visit.
        initial: The numbers of its groups at the start; those that changed are stored.

    Raises:
        Refused: The state of a parameter has a value that is neither tensor nor number.
    """
    groups = zip(_numbers(optimizer), initial, strict=False)
    changed = {f"{GROUP}{g}/{k}": v for g, (now, old) in enumerate(groups) for k, v in now.items() if v != old.get(k)}
    values = {
        f"{p}/{name}" if isinstance(value, Tensor) else f"{p}/{name}{NUMBER}": value
        for p, (parameter, _) in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
        if value is not None
    }
    if other := [name for name, value in values.items() if not isinstance(value, Tensor | int | float)]:
        kind, what = type(values[other[0]]).__name__, other[0].partition("/")[2].removesuffix(NUMBER)
        raise Refused(
            f"visit.keep_optimizer stores tensors and numbers, but {type(optimizer).__name__} has {what!r}, a {kind}; "
            "set it to false"
        )
    return {
        name: value.detach().cpu().clone()
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=_TYPES[type(value)])
        for name, value in (values | changed).items()
    }


def load_state(optimizer: Optimizer, state: Tensors) -> None:
    """Copies the result of `state_of` into a new optimizer of the same parameters."""
    own = _by_first_name(state)
    groups = _by_first_name(own[GROUP.rstrip("/")])
    for g, group in enumerate(optimizer.param_groups):
        group |= {name: t.item() for name, t in groups[str(g)].items()}
    for p, (parameter, group) in enumerate(_parameters(optimizer)):
        # Moments go to the device of their parameter; a step counter only if the optimizer counts on the device.
        counts_on_device = group.get("fused") or group.get("capturable")
        for name, t in own[str(p)].items():
            on_cpu = t.dim() == 0 and not counts_on_device
            value = t.to("cpu" if on_cpu else parameter.device, copy=True)
            optimizer.state[parameter][name.removesuffix(NUMBER)] = t.item() if name.endswith(NUMBER) else value


def _numbers(optimizer: Optimizer) -> list[dict[str, int | float]]:
    """For each group its numbers, without the learning rate."""
    return [
        {k: v for k, v in group.items() if isinstance(v, int | float) and k != "lr"} for group in optimizer.param_groups
    ]


def _by_first_name(tensors: Tensors) -> dict[str, Tensors]:
    """Tensors named `first/rest`, grouped by `first`."""
    grouped: dict[str, Tensors] = defaultdict(dict)
    for name, t in tensors.items():
        first, _, rest = name.partition("/")
        grouped[first][rest] = t
    return grouped


def _parameters(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
    """Each parameter with its group."""
    return [(p, group) for group in optimizer.param_groups for p in group["params"]]
