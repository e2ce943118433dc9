"""The base class of what wraps an algorithm, and the walk through wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fedcore.algorithms.answers import answer_error
from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.answer import Contribution
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class Wrapper:
    """Runs another algorithm; a subclass overrides the functions that it changes."""

    algorithm: Algorithm | None = None
    """The wrapped algorithm; null: fedcore.algorithms.fedavg.FedAvg."""

    @property
    def inner(self) -> Algorithm:
        """The wrapped algorithm, with its default."""
        return self.algorithm or FedAvg()

    def inner_state(self, state: Any) -> Any:
        """The wrapped algorithm's part of the server's state; all of it unless a subclass adds a part of its own."""
        return state

    def start(self, local: LocalTrainer) -> Any:
        return self.inner.start(local)

    def broadcast(self, state: Any, site: str, turn: Round) -> Any:
        return self.inner.broadcast(self.inner_state(state), site, turn)

    def visit(self, site: Site, down: Any, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        return self.inner.visit(site, down, local, turn)

    def merge(self, state: Any, contributions: Iterable[Contribution[Any]]) -> Any:
        return self.inner.merge(self.inner_state(state), contributions)

    def error_of(self, state: Any, message: Any) -> str | None:
        """What the wrapped algorithm finds wrong with an answer."""
        return answer_error(self.inner, self.inner_state(state), message)


def layers(algorithm: Any) -> Iterator[Any]:
    """The algorithm, then the one that it wraps as `algorithm`, and so on inwards; nothing for None."""
    while algorithm is not None:
        yield algorithm
        algorithm = getattr(algorithm, "algorithm", None)
