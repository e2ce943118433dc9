"""The state of an optimizer, kept at its site from visit to visit."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from fedcore.message import Tensors


class KeepOptimizer(Callback):
    """Carries the optimizer's tensors from one visit of a site to its next, in place in `kept`."""

    def __init__(self, kept: Tensors):
        self.kept = kept

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        own = _by_first_name(self.kept)
        for o, optimizer in enumerate(trainer.optimizers):
            resume(optimizer, own[str(o)])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.kept.clear()
        for o, optimizer in enumerate(trainer.optimizers):
            self.kept |= {f"{o}/{k}": t for k, t in state_of(optimizer).items()}


def state_of(optimizer: Optimizer) -> Tensors:
    """Copies of the optimizer's tensors, named by the place of their parameter and their own name."""
    return {
        f"{p}/{name}": t.detach().cpu().clone()
        for p, (parameter, _) in enumerate(_parameters(optimizer))
        for name, t in optimizer.state[parameter].items()
        if isinstance(t, Tensor)
    }


def resume(optimizer: Optimizer, state: Tensors) -> None:
    """Copies what `state_of` gave into a new optimizer of the same parameters."""
    own = _by_first_name(state)
    for p, (parameter, group) in enumerate(_parameters(optimizer)):
        # Moments follow their parameter; a step counter only if the optimizer counts on the device.
        counts_there = group.get("fused") or group.get("capturable")
        for name, t in own[str(p)].items():
            stays = t.dim() == 0 and not counts_there
            optimizer.state[parameter][name] = t.to("cpu" if stays else parameter.device, copy=True)


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
