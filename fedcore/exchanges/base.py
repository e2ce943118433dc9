"""What sites share besides weights, as a part that any algorithm can carry.

Feature banks, statistics, prototypes and amplitudes are all exchanges: five small functions, and
`WithExchange` runs them around the visits of whatever algorithm trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from fedcore.algorithms.base import Algorithm
from fedcore.messages.message import Contribution, Message
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

Pool = TypeVar("Pool")
Down = TypeVar("Down")
Up = TypeVar("Up")


@runtime_checkable
class Exchange(Protocol[Pool, Down, Up]):
    """The pool is what the server holds between rounds; it is checkpointed with the algorithm's state."""

    def start(self) -> Pool:
        """At the server: the pool of a new run."""

    def broadcast(self, pool: Pool, site: str, turn: Round) -> Down:
        """At the server: what `site` is given of the pool."""

    def receive(self, module: Any, down: Down, turn: Round) -> None:
        """At the site, before it trains."""

    def collect(self, module: Any, site: Site, turn: Round) -> Up:
        """At the site, after it trained: what it gives to the pool."""

    def merge(self, pool: Pool, uploads: dict[str, Up]) -> Pool:
        """At the server: the pool with this round's uploads."""


@dataclass(frozen=True)
class Combined(Message):
    """An algorithm's message and an exchange's, side by side; the server's state has the same shape."""

    algorithm: Message
    exchange: Message


@dataclass(frozen=True)
class WithExchange:
    """Runs `exchange` around the visits of `algorithm`, of which neither knows."""

    algorithm: Algorithm
    exchange: Exchange

    def start(self, local: LocalTrainer) -> Combined:
        return Combined(self.algorithm.start(local), self.exchange.start())

    def broadcast(self, state: Combined, site: str, turn: Round) -> Combined:
        return Combined(
            self.algorithm.broadcast(state.algorithm, site, turn),
            self.exchange.broadcast(state.exchange, site, turn),
        )

    def visit(self, site: Site, down: Combined, local: LocalTrainer, turn: Round) -> Contribution[Combined]:
        self.exchange.receive(local.module, down.exchange, turn)
        inner = self.algorithm.visit(site, down.algorithm, local, turn)
        up = Combined(inner.message, self.exchange.collect(local.module, site, turn))
        return Contribution(site.name, up, inner.examples, inner.metrics)

    def merge(self, state: Combined, contributions: Iterable[Contribution[Combined]]) -> Combined:
        taken = _Uploads(contributions)
        merged = self.algorithm.merge(state.algorithm, taken)
        return Combined(merged, self.exchange.merge(state.exchange, taken.held))


@dataclass
class _Uploads:
    """Streams the algorithm's part on and holds the exchange's, which is small."""

    contributions: Iterable[Contribution[Combined]]
    held: dict[str, Message] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Contribution[Any]]:
        for c in self.contributions:
            self.held[c.site] = c.message.exchange
            yield Contribution(c.site, c.message.algorithm, c.examples, c.metrics, c.seconds)
