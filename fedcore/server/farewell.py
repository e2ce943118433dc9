"""The last request of a run: every site makes its own figures and saves what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.messages.answer import Refusal
from fedcore.messages.farewell import FarewellNotes
from fedcore.messages.message import Weights
from fedcore.messages.request import FAREWELL
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.messages.wire import printable
from fedcore.server.sites import Sites


@dataclass(frozen=True)
class Farewells:
    notes: list[str]
    owners: list[str]
    """Sites that have the model, or a part of it, to themselves."""


def say_farewell(sites: Sites, weights: Tensors, names: Sequence[str], turn: Round) -> Farewells:
    """Sends the final weights to these sites. A site that declines is a note: the run is trained."""
    notes, owners = [], []
    for answer in sites.query(FAREWELL, Weights(weights), names, turn, FarewellNotes):
        if isinstance(answer, Refusal):
            notes.append(f"{answer.site} wrote no files for its report: {answer.reason}")
        else:
            notes += map(printable, answer.message.notes)
            owners += [answer.site] if answer.message.own_model else []
    return Farewells(notes, owners)
