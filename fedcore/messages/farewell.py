"""What a site answers to the last request of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedcore.messages.message import Message
from fedcore.messages.reveals import WEIGHTS


@dataclass(frozen=True)
class FarewellNotes(Message):
    """What it made for itself stays at the site; only this is sent."""

    notes: tuple[str, ...] = field(metadata=WEIGHTS)
    """What could not be made, in sentences that hold nothing of patients."""
    own_model: bool = field(metadata=WEIGHTS)
    """Whether the model, or a part of it, is this site's own."""
