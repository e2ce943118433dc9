"""The last visit of a run: a site makes the figures of its page, and saves what is its own of the model.

Nothing of that is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fedcore.errors import Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.farewell import FarewellNotes
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import MODULE, personal_weights


@runtime_checkable
class SiteFile(Protocol):
    """Something that a site makes for itself after training, in its own folder."""

    @property
    def what(self) -> str:
        """Its name in notes, such as `gallery`."""

    def make(self, site: Site, local: LocalTrainer) -> None:
        """Writes it; the module holds the site's model. Raises Refused where it cannot be made."""


@dataclass(frozen=True)
class Farewell:
    """Asked once, with the final weights. A run that was trained is not lost to a figure: what goes wrong is a note."""

    files: Sequence[SiteFile]
    own: str = ""
    """Prefix of the part of the module whose owner is asked for."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[FarewellNotes]:
        notes = []
        for file in self.files:
            local.load(down.tensors | personal_weights(site.memory))
            try:
                file.make(site, local)
            except Refused as e:
                notes.append(f"no {file.what} of {site.name}: {e}")
            except Exception as e:  # out of memory, an odd network, a full disk; its text may quote an image
                notes.append(f"no {file.what} of {site.name}: {type(e).__name__}")
        local.load(down.tensors)  # a personal model was in their place
        owner = any(name.startswith(self.own) for name in own_part(site.memory))
        return Contribution(site.name, FarewellNotes(tuple(notes), owner), 0)


def own_part(memory: Tensors) -> Tensors:
    """What a site has of the model in place of what travels, by the module's names."""
    return {k.removeprefix(MODULE): t for k, t in memory.items() if k.startswith(MODULE)} | personal_weights(memory)
