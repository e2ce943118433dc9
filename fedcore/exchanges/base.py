"""Exchanges: what sites share in addition to weights, with any algorithm.

Feature banks, statistics, prototypes and amplitudes are exchanges: five small functions, which `WithExchange` runs
around the visits of an algorithm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from fedcore.algorithms.answers import answer_error
from fedcore.algorithms.wrapper import Wrapper
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

Pool = TypeVar("Pool")
Down = TypeVar("Down")
Up = TypeVar("Up")


@runtime_checkable
class Exchange(Protocol[Pool, Down, Up]):
    """The pool is what the server stores between rounds; checkpoints hold it with the algorithm's state.

    A further method is optional: `error_of(pool, upload)` checks an upload (`fedcore.algorithms.answers`).
    """

    def start(self) -> Pool:
        """At the server: the pool of a new run."""

    def broadcast(self, pool: Pool, site: str, turn: Round) -> Down:
        """At the server: the part of the pool that `site` is sent."""

    def receive(self, module: Any, down: Down, turn: Round) -> None:
        """At the site, before it trains."""

    def collect(self, module: Any, site: Site, turn: Round) -> Up:
        """At the site, after it trained: its contribution to the pool."""

    def merge(self, pool: Pool, uploads: dict[str, Up]) -> Pool:
        """At the server: the pool with this round's uploads."""


@dataclass(frozen=True)
class Combined(Message):
    """The message of an algorithm and that of an exchange; the server's state has the same fields."""

    algorithm: Message
    exchange: Message


@dataclass(frozen=True)
class WithExchange(Wrapper):
    """Runs `exchange` around the visits of `algorithm`; neither depends on the other."""

    exchange: Exchange = field(kw_only=True)

    def inner_state(self, state: Combined) -> Message:
        return state.algorithm

    def start(self, local: LocalTrainer) -> Combined:
        return Combined(self.inner.start(local), self.exchange.start())

    def broadcast(self, state: Combined, site: str, turn: Round) -> Combined:
        return Combined(
            self.inner.broadcast(state.algorithm, site, turn), self.exchange.broadcast(state.exchange, site, turn)
        )

    def visit(self, site: Site, down: Combined, local: LocalTrainer, turn: Round) -> Contribution[Combined]:
        self.exchange.receive(local.module, down.exchange, turn)
        contribution = self.inner.visit(site, down.algorithm, local, turn)
        up = Combined(contribution.message, self.exchange.collect(local.module, site, turn))
        return Contribution(site.name, up, contribution.examples, contribution.metrics)

    def merge(self, state: Combined, contributions: Iterable[Contribution[Combined]]) -> Combined:
        incoming = _Incoming(contributions)
        merged = self.inner.merge(state.algorithm, incoming)
        return Combined(merged, self.exchange.merge(state.exchange, incoming.uploads))

    def error_of(self, state: Combined, message: Combined) -> str | None:
        error = super().error_of(state, message.algorithm)
        return error or answer_error(self.exchange, state.exchange, message.exchange)


@dataclass
class _Incoming:
    """Passes the algorithm's part on as a stream, and holds the exchange's parts, which are small."""

    contributions: Iterable[Contribution[Combined]]
    uploads: dict[str, Message] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Contribution[Any]]:
        for c in self.contributions:
            self.uploads[c.site] = c.message.exchange
            yield Contribution(c.site, c.message.algorithm, c.examples, c.metrics, c.seconds)
