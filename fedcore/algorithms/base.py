"""The protocols of a federated algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

State = TypeVar("State")
Down = TypeVar("Down")
Up = TypeVar("Up", bound=Message)
Received = TypeVar("Received", contravariant=True)


@runtime_checkable
class Visitor(Protocol[Received, Up]):
    """What runs at a site in a visit, training or evaluation."""

    def visit(self, site: Site, down: Received, local: LocalTrainer, turn: Round) -> Contribution[Up]: ...


@runtime_checkable
class SetsPolicy(Protocol):
    """A visitor whose answers may reveal another level than all others of the site, because the site's own policy
    provides for that (`Policy.for_audit`)."""

    def answer_policy(self, policy: Policy) -> Policy:
        """The policy that an answer to this visitor is checked against, from that of the site."""


@runtime_checkable
class Algorithm(Protocol[State, Down, Up]):
    """Four functions over explicit state.

    The server's state is the message that `start` returns and `merge` replaces; a site's state is
    `site.memory`. Nothing is stored on `self`, so a checkpoint is complete by construction and a
    resumed run equals an uninterrupted one. Sites are sent the server's own tensors, not copies:
    `merge` and `visit` must return new ones; a run in which one writes into them ends with an error.

    Sites send what `local.fit` returns as metrics without more ado; an algorithm that adds metrics of its own declares
    their names in a class attribute `metric_names`.

    Three further methods are optional. `share(module)` returns prefixes of the tensors that travel, where these are not
    all that the module shares. `choose` chooses the sites of a round (`ChoosesSites`). `error_of(state, message)`
    checks an answer that holds more than weights (`fedcore.algorithms.answers`).

    The toy below adds up the sites' numbers of images::

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


@runtime_checkable
class ChoosesSites(Protocol):
    """An algorithm that chooses the sites of a round itself, in place of `rounds.per_round`."""

    def choose(self, state: Any, names: Sequence[str], turn: Round) -> list[str]: ...
