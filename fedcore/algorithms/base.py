"""The shape of a federated algorithm, and its plainest member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Protocol, TypeVar, get_args, get_origin, runtime_checkable

from pytorch_lightning import Callback

from fedcore.aggregation.mean import Aggregator, Mean
from fedcore.messages.message import Contribution, Message, Tensors, Weights, hints
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer, implements

State = TypeVar("State")
Down = TypeVar("Down")
Up = TypeVar("Up", bound=Message)
Received = TypeVar("Received", contravariant=True)


@runtime_checkable
class Visitor(Protocol[Received, Up]):
    """What is done at a site, whether it trains or only measures."""

    def visit(self, site: Site, down: Received, local: LocalTrainer, turn: Round) -> Contribution[Up]: ...


@runtime_checkable
class Algorithm(Protocol[State, Down, Up]):
    """Four functions over explicit state.

    The server's state is the message `start` makes and `merge` replaces; a site's state is
    `site.memory`. Nothing is kept on `self`, so a checkpoint is complete by construction and a
    resumed run equals an uninterrupted one. Sites are sent the server's own tensors, not copies:
    `merge` and `visit` make new ones, and a run in which one writes into them ends with an error.
    The toy below shares one number::

        @dataclass(frozen=True)
        class Count(Message):
            images: Float[Tensor, ""] = field(metadata=STATISTICS)

        class Census:
            def start(self, local): return Count(torch.zeros(()))
            def broadcast(self, state, site, turn): return Empty()
            def visit(self, site, down, local, turn):
                return Contribution(site.name, Count(torch.tensor(float(site.size))), site.size)
            def merge(self, state, contributions): return Count(sum(c.message.images for c in contributions))
    """

    def start(self, local: LocalTrainer) -> State: ...
    def broadcast(self, state: State, site: str, turn: Round) -> Down: ...
    def visit(self, site: Site, down: Down, local: LocalTrainer, turn: Round) -> Contribution[Up]: ...
    def merge(self, state: State, contributions: Iterable[Contribution[Up]]) -> State: ...


def share_of(algorithm: Any, module: Any) -> tuple[str, ...]:
    """Prefixes of the module's state that travel: the module's own `share`, unless the algorithm narrows it.

    An algorithm's `share` may be a function of the module, whose names it then looks at. One that wraps another (an
    exchange's `WithExchange`) holds it as `algorithm` and leaves the answer to it.
    """
    while not hasattr(algorithm, "share") and hasattr(algorithm, "algorithm"):
        algorithm = algorithm.algorithm
    share = getattr(algorithm, "share", module.share)
    names: tuple[str, ...] = share(module) if callable(share) else share
    return names


def sent_by(part: Any) -> Iterator[type[Message]]:
    """The kinds of message that sites send for an algorithm, an exchange or a survey, as far as these say it.

    That is what `visit` says its contribution holds, and what `collect` says it returns; who says nothing, or Any, is
    left to the border of each visit. One that wraps others holds them as `algorithm` and `exchange`, and theirs are
    sent as well.
    """
    for name in ("visit", "collect"):
        if kind := returned_by(getattr(part, name, None)):
            yield kind
    for name in ("algorithm", "exchange"):
        if hasattr(part, name):
            yield from sent_by(getattr(part, name))


def returned_by(method: Any) -> type[Message] | None:
    """The kind of message that a method says it returns, by itself or in a contribution; None: it says none."""
    said = hints(method).get("return")
    kind = get_args(said)[0] if get_origin(said) is Contribution else said
    return kind if isinstance(kind, type) and issubclass(kind, Message) else None


@runtime_checkable
class Draws(Protocol):
    """An algorithm that says itself which sites a round asks, in place of the schedule's draw."""

    def draw(self, names: Sequence[str], turn: Round) -> list[str]: ...


def draws_of(algorithm: Any) -> Draws | None:
    """The part of an algorithm that says whom a round asks, however deep it is wrapped; None: the schedule draws."""
    while not implements(algorithm, "draw"):
        if not hasattr(algorithm, "algorithm"):
            return None
        algorithm = algorithm.algorithm
    drawing: Draws = algorithm
    return drawing


def count_user(part: Any) -> str | None:
    """The name of the class, in an algorithm and all that it holds, that depends on the number of rounds of the run."""
    if getattr(part, "uses_count", False):
        return type(part).__name__
    inside = part if isinstance(part, tuple | list) else vars(part).values() if is_dataclass(part) else ()
    return next((found for each in inside if (found := count_user(each))), None)


@runtime_checkable
class LocalCallback(Protocol):
    """Bends local training without knowing the method: a Lightning callback made anew for each visit.

    One that reads `turn.count`, how many rounds there will be, says so by a class attribute `uses_count = True`: a run
    with it cannot be resumed with another number of rounds.
    """

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback: ...


@dataclass(frozen=True)
class FedAvg:
    """Sites train alone, the server averages (McMahan et al. 2017, arXiv 1602.05629)."""

    aggregator: Aggregator | None = None
    """The server's rule; null: the mean weighted by images."""
    guides: tuple[LocalCallback, ...] = ()
    """What acts on local training, such as the spring of FedProx or a learning rate schedule."""

    def start(self, local: LocalTrainer) -> Weights:
        return Weights(local.shared())

    def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
        return state

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        local.load(down.tensors)
        metrics = local.fit(site, turn, [g.callback(down.tensors, site, turn) for g in self.guides])
        return Contribution(site.name, Weights(local.shared()), site.size, metrics)

    def merge(self, state: Weights, contributions: Iterable[Contribution[Weights]]) -> Weights:
        return Weights((self.aggregator or Mean()).combine(contributions, state.tensors))
