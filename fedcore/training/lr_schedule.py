"""Learning rate schedules over the rounds of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site


@dataclass(frozen=True)
class Cosine:
    """Scales the method's learning rate: warm-up, then half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983).

    The rate is constant within a round, because sites have different numbers of steps, but the same rounds.
    """

    uses_count: ClassVar[bool] = True
    warmup: int = 0
    """Rounds of the warm-up; the first has 1 / (warmup + 1) of the rate."""
    floor: float = 0.0
    """Fraction of the rate at the end, in [0, 1]."""

    def factor(self, turn: Round) -> float:
        if turn.index < self.warmup:
            return (turn.index + 1) / (self.warmup + 1)
        done = (turn.index - self.warmup) / max(1, turn.count - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return _Scale(self.factor(turn))


class _Scale(Callback):
    def __init__(self, factor: float):
        self.factor = factor

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= self.factor
