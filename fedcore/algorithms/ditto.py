"""Ditto: in addition to the federation's model each site trains a personal one, with a proximal term towards it.

Li et al. 2021, arXiv 2012.04221. In a recipe, around any algorithm that sends weights::

    algorithm: {class_path: fedcore.algorithms.ditto.Ditto, init_args: {lam: 1.0}}
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.wrapper import Wrapper
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, weights_of
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import PERSONAL, personal_weights, with_prefix

NOTES = "ditto/"


@dataclass(frozen=True)
class Ditto(Wrapper):
    """v <- v - eta (grad F(v) + lam (v - w)) at each site, where w is what it was sent; `algorithm` trains w.

    v never leaves the site and does not change w: the federation's weights are exactly those of `algorithm`. A site is
    evaluated with its v; a site that never trained has none and uses w. Our reading: v takes as many steps as w, on the
    same images in the same order, and is initialised with what the site is sent at its first visit.

    A visit takes twice the time, and a site stores the whole module in its memory. Metrics of v are named `personal_*`.
    `visit.callbacks` act on both trainings; what they store at the site for v is kept apart from what they store for w.
    """

    metric_prefix: ClassVar[str] = "personal_"

    lam: float = 1.0
    """lambda >= 0: with 0 each v trains alone, with larger values v stays nearer to w. The paper uses 1, or 0.1 where
    sites may send bad weights on purpose, for sites that are too small to choose lambda on their own images."""

    def __post_init__(self) -> None:
        if self.lam < 0:
            raise ValueError(f"lam must be >= 0, got {self.lam}")

    def start(self, local: LocalTrainer) -> Any:
        if local.visit.keep_optimizer:
            raise InputError("visit.keep_optimizer must be false, because Ditto trains two models with one optimizer")
        return self.inner.start(local)

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        if not (sent := weights_of(down)):
            raise Refused(
                f"Ditto needs the weights that a site is sent, and {type(self.inner).__name__} sends none; wrap "
                "FedAvg, and wrap Ditto itself into Quantised"
            )
        metrics = self._train_personal(site, sent, local, turn)
        contribution = self.inner.visit(site, down, local, turn)
        return dataclasses.replace(contribution, metrics=contribution.metrics | metrics)

    def _train_personal(self, site: Site, sent: Tensors, local: LocalTrainer, turn: Round) -> dict[str, float]:
        """Trains v, and restores the module's state afterwards."""
        before = _state(local)
        local.load(sent | personal_weights(site.memory))
        own = dataclasses.replace(site, memory=with_prefix(NOTES, site.memory))
        metrics = local.fit(own, turn, sent, [ProximalTerm(self.lam).callback(sent, site, turn)])
        personal = {PERSONAL + k: t for k, t in _state(local).items()}
        site.memory = site.memory | personal | {NOTES + k: t for k, t in own.memory.items()}
        local.load(before)
        return {self.metric_prefix + name: value for name, value in metrics.items()}


def _state(local: LocalTrainer) -> Tensors:
    """Copies of the module's whole state: a bank or a norm that does not travel belongs to the personal model too."""
    dense = torch.contiguous_format
    return {k: t.detach().clone(memory_format=dense) for k, t in local.module.state_dict().items()}
