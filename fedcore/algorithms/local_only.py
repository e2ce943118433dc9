"""The baseline without a federation: every site trains alone and nothing but metrics leaves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedcore.algorithms.base import LocalCallback
from fedcore.messages.message import Contribution, Empty, Tensors
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class LocalOnly:
    """Each site goes on from its own weights, which stay in its memory.

    Nothing of the module travels, so all of its state is the site's own.
    """

    share: ClassVar[tuple[str, ...]] = ()

    guides: tuple[LocalCallback, ...] = ()
    """What acts on local training; the weights a guide is anchored to are empty."""

    def start(self, local: LocalTrainer) -> Empty:
        return Empty()

    def broadcast(self, state: Empty, site: str, turn: Round) -> Empty:
        return state

    def visit(self, site: Site, down: Empty, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        anchor: Tensors = {}
        metrics = local.fit(site, turn, [g.callback(anchor, site, turn) for g in self.guides])
        return Contribution(site.name, Empty(), site.size, metrics)

    def merge(self, state: Empty, contributions: Iterable[Contribution[Empty]]) -> Empty:
        for _ in contributions:  # the stream must be read for the visits to happen
            pass
        return state
