"""What a site answers: its contribution, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fedcore.messages.message import Message, exposure
from fedcore.messages.reveals import NO_LEVELS, Levels, Reveals

Up = TypeVar("Up", bound=Message)


@dataclass(frozen=True)
class Contribution(Generic[Up]):
    """One site's answer to one round.

    `examples` (images it was made from), `seconds` and `metrics` (scalars such as the mean loss) leave the site too,
    and are audited with the message. Metrics are STATISTICS; the other two go with every answer and are WEIGHTS.
    """

    site: str
    message: Up
    examples: int
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reveals: Reveals = Reveals.WEIGHTS
    """The least it is known to reveal; the audit log that releases it sets it to all that it reveals."""
    keeps: bool = False
    """Whether the site remembers something of this visit, which its next one needs."""


def revealed(contribution: Contribution[Any], levels: Levels = NO_LEVELS) -> Reveals:
    """The highest level of anything in an answer. All that is said of a run's levels comes from here."""
    scalars = Reveals.STATISTICS if contribution.metrics else Reveals.WEIGHTS
    return max(contribution.reveals, exposure(contribution.message, levels), scalars)


@dataclass(frozen=True)
class Refusal:
    """A site that gives no answer this round, and a reason that holds nothing of its patients."""

    site: str
    reason: str
    cause: Exception | None = None
    """Kept for a run in one process, whose traceback it completes; never sent."""


Answer = Contribution[Message] | Refusal
