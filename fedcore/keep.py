"""The state of an optimizer, kept at its site from visit to visit."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fedcore.message import Tensors


class KeepOptimizer(Callback):
    """Carries the optimizer's tensors from one visit of a site to its next, in place in `kept`."""

    def __init__(self, kept: Tensors):
        self.kept = kept

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        for o, optimizer in enumerate(trainer.optimizers):
            for p, parameter in enumerate(_parameters(optimizer)):
                prefix = f"{o}/{p}/"
                own = {k.removeprefix(prefix): v for k, v in self.kept.items() if k.startswith(prefix)}
                # A step counter stays where the optimizer made it (the CPU); moments follow their parameter.
                for name, t in own.items():
                    optimizer.state[parameter][name] = t.clone() if t.dim() == 0 else t.to(parameter.device, copy=True)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.kept.clear()
        for o, optimizer in enumerate(trainer.optimizers):
            for p, parameter in enumerate(_parameters(optimizer)):
                for name, t in optimizer.state[parameter].items():
                    if isinstance(t, Tensor):
                        self.kept[f"{o}/{p}/{name}"] = t.detach().cpu().clone()


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
