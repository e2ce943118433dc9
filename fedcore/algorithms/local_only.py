"""The baseline without a federation: each site trains alone, and only metrics leave it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class LocalOnly:
    """Each site continues from its own weights, which stay in its memory.

    Nothing of the module travels, so all of its state is the site's own. Callbacks have an empty anchor.
    """

    def share(self, module: Any) -> tuple[str, ...]:
        return ()

    def start(self, local: LocalTrainer) -> Empty:
        return Empty()

    def broadcast(self, state: Empty, site: str, turn: Round) -> Empty:
        return state

    def visit(self, site: Site, down: Empty, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        return Contribution(site.name, Empty(), site.size, local.fit(site, turn, {}))

    def merge(self, state: Empty, contributions: Iterable[Contribution[Empty]]) -> Empty:
        for _ in contributions:  # visits happen while this stream is read
            pass
        return state
