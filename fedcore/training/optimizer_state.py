"""The state of an optimizer, kept at its site from visit to visit.

That is what it holds of each parameter, and the numbers of its groups that it changes itself (a counter of steps, a sum
of weights); the learning rate is not, which guides set. Numbers are kept as tensors of no dimension.
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
from fedcore.messages.message import Tensors

GROUP, NUMBER = "group/", "#number"
_TYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


class KeepOptimizer(Callback):
    """Carries the optimizer's state from one visit of a site to its next, in place in `kept`."""

    def __init__(self, kept: Tensors):
        self.kept = kept
        self.begun: list[list[dict[str, Any]]] = []
        """Numbers of the groups of each optimizer, as they were made."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        own = _by_first_name(self.kept)
        self.begun = [_numbers(optimizer) for optimizer in trainer.optimizers]
        for o, optimizer in enumerate(trainer.optimizers):
            resume(optimizer, own[str(o)])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.kept.clear()
        for o, optimizer in enumerate(trainer.optimizers):
            self.kept |= {f"{o}/{k}": t for k, t in state_of(optimizer, self.begun[o]).items()}


def state_of(optimizer: Optimizer, begun: Sequence[Mapping[str, Any]] = ()) -> Tensors:
    """Copies of the optimizer's state: of a parameter at place p `p/name`, of a group at place g `group/g/name`.

    Args:
        optimizer: At the end of a visit.
        begun: The numbers of its groups at the begin; those that changed are kept.

    Raises:
        Refused: It holds something of a parameter that is no tensor and no number.
    """
    groups = zip(_numbers(optimizer), begun, strict=False)
    changed = {f"{GROUP}{g}/{k}": v for g, (now, old) in enumerate(groups) for k, v in now.items() if v != old.get(k)}
    held = {
        f"{p}/{name}" if isinstance(value, Tensor) else f"{p}/{name}{NUMBER}": value
        for p, (parameter, _) in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
        if value is not None
    }
    if other := [name for name, value in held.items() if not isinstance(value, Tensor | int | float)]:
        kind, what = type(held[other[0]]).__name__, other[0].partition("/")[2].removesuffix(NUMBER)
        raise Refused(
            f"visit.keep_optimizer keeps tensors and numbers, and {type(optimizer).__name__} holds {what!r}, a {kind}; "
            "set it to false"
        )
    return {
        name: value.detach().cpu().clone()
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=_TYPES[type(value)])
        for name, value in (held | changed).items()
    }


def resume(optimizer: Optimizer, state: Tensors) -> None:
    """Copies what `state_of` gave into a new optimizer of the same parameters."""
    own = _by_first_name(state)
    groups = _by_first_name(own[GROUP.rstrip("/")])
    for g, group in enumerate(optimizer.param_groups):
        group |= {name: t.item() for name, t in groups[str(g)].items()}
    for p, (parameter, group) in enumerate(_parameters(optimizer)):
        # Moments follow their parameter; a step counter only if the optimizer counts on the device.
        counts_there = group.get("fused") or group.get("capturable")
        for name, t in own[str(p)].items():
            stays = t.dim() == 0 and not counts_there
            kept = t.to("cpu" if stays else parameter.device, copy=True)
            optimizer.state[parameter][name.removesuffix(NUMBER)] = t.item() if name.endswith(NUMBER) else kept


def _numbers(optimizer: Optimizer) -> list[dict[str, int | float]]:
    """Of each group its numbers but the learning rate."""
    return [
        {k: v for k, v in group.items() if isinstance(v, int | float) and k != "lr"} for group in optimizer.param_groups
    ]


def _by_first_name(tensors: Tensors) -> dict[str, Tensors]:
    """What is named first/rest, by `first`."""
    grouped: dict[str, Tensors] = defaultdict(dict)
    for name, t in tensors.items():
        first, _, rest = name.partition("/")
        grouped[first][rest] = t
    return grouped


def _parameters(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
    """Each parameter with the group it is of."""
    return [(p, group) for group in optimizer.param_groups for p in group["params"]]
