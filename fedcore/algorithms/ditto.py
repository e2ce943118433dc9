"""Ditto: beside the federation's model each site trains one of its own, tied to it (Li et al. 2021, arXiv 2012.04221).

In a recipe, around any algorithm that sends weights::

    algorithm: {class_path: fedcore.algorithms.ditto.Ditto, init_args: {lam: 1.0}}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from fedcore.algorithms.base import Algorithm, FedAvg, LocalCallback
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.errors import InputError, Refused
from fedcore.messages.message import Contribution, Message, Tensors, weights_of
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import PERSONAL, LocalTrainer, personal


@dataclass(frozen=True)
class Ditto:
    """v <- v - eta (grad F(v) + lam (v - w)) at each site, w being what it was sent; w itself as `algorithm` has it.

    Of v nothing leaves the site, and w never learns of it: the federation's weights are those of `algorithm` to the
    bit. A site is evaluated by its v; one that never trained has none, and takes w. Our reading: v takes as many steps
    as w, on the same images in the same order, and begins as what the site is sent at its first visit.

    A visit takes twice the time, and a site keeps the whole module in its memory. The metrics `personal_*` are v's.
    """

    algorithm: Algorithm | None = None
    """How the sites train w together; null: fedcore.algorithms.base.FedAvg."""
    lam: float = 1.0
    """lambda >= 0: 0 and every v is alone, the greater the nearer to w. The paper takes 1, or 0.1 where sites may send
    bad weights on purpose, for sites too small to choose by images of their own."""
    guides: tuple[LocalCallback, ...] = ()
    """What acts on v beside the spring, such as a learning rate schedule; w has the guides of `algorithm`."""

    def __post_init__(self) -> None:
        if self.lam < 0:
            raise ValueError(f"lam must be >= 0, got {self.lam}")

    def start(self, local: LocalTrainer) -> Any:
        if local.visit.keep_optimizer:
            raise InputError("visit.keep_optimizer must be false, because Ditto trains two models by one optimizer")
        return self._inner.start(local)

    def broadcast(self, state: Any, site: str, turn: Round) -> Any:
        return self._inner.broadcast(state, site, turn)

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        if not (sent := weights_of(down)):
            raise Refused(
                f"Ditto ties a site to the weights it is sent, and {type(self._inner).__name__} sends none; wrap "
                "FedAvg, and wrap Ditto itself into Quantised"
            )
        metrics = self._train_own(site, sent, local, turn)
        contribution = self._inner.visit(site, down, local, turn)
        return dataclasses.replace(contribution, metrics=contribution.metrics | metrics)

    def merge(self, state: Any, contributions: Iterable[Contribution[Any]]) -> Any:
        return self._inner.merge(state, contributions)

    @property
    def _inner(self) -> Algorithm:
        return self.algorithm or FedAvg()

    def _train_own(self, site: Site, sent: Tensors, local: LocalTrainer, turn: Round) -> dict[str, float]:
        """Trains v, and leaves the module as it was found."""
        before = _whole(local)
        local.load(sent | personal(site.memory))
        guides = (ProximalTerm(self.lam), *self.guides)
        metrics = local.fit(site, turn, [g.callback(sent, site, turn) for g in guides])
        site.memory = site.memory | {PERSONAL + k: t for k, t in _whole(local).items()}
        local.load(before)
        return {f"personal_{name}": value for name, value in metrics.items()}


def _whole(local: LocalTrainer) -> Tensors:
    """Copies of all of the module's state; of a personal model a bank or a norm that does not travel is part too."""
    dense = torch.contiguous_format
    return {k: t.detach().clone(memory_format=dense) for k, t in local.module.state_dict().items()}
