"""Before a run: the server proposes a recipe to a site, where a person approves it or not."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedcore.messages.message import Message
from fedcore.messages.reveals import WEIGHTS

PROPOSE = "propose"
"""The word; it belongs to no recipe."""


@dataclass(frozen=True)
class Proposal(Message):
    """A shared recipe (`fedcore.config.shared_recipe`). The site keeps it for a person to look at; nothing is run."""

    command: str = field(metadata=WEIGHTS)
    recipe: str = field(metadata=WEIGHTS)
    """Its text."""


@dataclass(frozen=True)
class ProposalAnswer(Message):
    """Whether the recipe is approved at the site."""

    approved: bool = field(metadata=WEIGHTS)
    versions: tuple[str, ...] = field(metadata=WEIGHTS)
    """`package version` of what decides how a module is built and trained."""
