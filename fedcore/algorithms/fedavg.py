"""FedAvg (McMahan et al. 2017, arXiv 1602.05629)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedcore.aggregation.base import Aggregator
from fedcore.aggregation.mean import Mean
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class FedAvg:
    """Sites train separately, and the server averages (McMahan et al. 2017, arXiv 1602.05629)."""

    aggregator: Aggregator | None = None
    """The server's aggregation rule; null: the mean weighted by images."""

    def start(self, local: LocalTrainer) -> Weights:
        return Weights(local.shared())

    def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
        return state

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        local.load(down.tensors)
        metrics = local.fit(site, turn, down.tensors)
        return Contribution(site.name, Weights(local.shared()), site.size, metrics)

    def merge(self, state: Weights, contributions: Iterable[Contribution[Weights]]) -> Weights:
        return Weights((self.aggregator or Mean()).combine(contributions, state.tensors))
