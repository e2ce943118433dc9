"""What the server asks of a site: a word, and what goes with it."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.messages.agreement import Agreement
from fedcore.messages.message import Message
from fedcore.messages.round import Round

FACTS, BUILD, TRAIN, EVALUATE, FAREWELL = "facts", "build", "train", "evaluate", "farewell"
HAND_OVER = "hand_over"
WORDS = (FACTS, BUILD, TRAIN, EVALUATE, FAREWELL, HAND_OVER)
"""Words that every recipe may use; one may know others."""


@dataclass(frozen=True)
class Counted:
    """The last visit of a site that the server committed; the site continues from its memory of that visit."""

    round: int
    keeps: bool
    """Whether the site said that it remembers something of that visit."""


@dataclass(frozen=True)
class Request:
    """A site resolves `word` from the recipe that it approved: no object and no code travels."""

    site: str
    word: str
    message: Message
    turn: Round
    counted: Counted | None = None
    """None: no visit of this site has counted."""
    agreement: Agreement | None = None
    """None before the agreement, when sites are asked for facts."""
    run: str = ""
    """Name of the run, for the site's audit log."""
    recipe: str = ""
    """Digest of the recipe that the server runs; a site that runs another one declines. Empty: not known."""
