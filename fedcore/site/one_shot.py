"""What a site gives away whole: a model that it trained alone, sent once, after the last round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Message
from fedcore.messages.reveals import WEIGHTS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class Whole(Message):
    """A model of one site.

    WEIGHTS as those of a round, but of a single site: no mean hides it among others, so whatever the model knows by
    heart is this site's. Against that stands that it leaves once, and nobody sees how it moved from round to round.
    """

    tensors: Tensors = field(metadata=WEIGHTS)


@dataclass(frozen=True)
class HandOver:
    """The site's own model."""

    model: Callable[[Site], Tensors]
    trained_on: int
    """Number of images."""

    def visit(self, site: Site, down: Empty, local: LocalTrainer | None, turn: Round) -> Contribution[Whole]:
        return Contribution(site.name, Whole(self.model(site)), self.trained_on)
