"""A site, which keeps its data and its memory to itself, and the round it takes part in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedcore.data.dataset import Images
from fedcore.messages.tensors import Tensors
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy


@dataclass
class Site:
    """One hospital. Nothing of it leaves but what an algorithm puts into a message."""

    name: str
    images: Images
    """What it trains on."""
    test: Images | None = None
    """What it measures on, if anything."""
    memory: Tensors = field(default_factory=dict)
    """What stays at the site from visit to visit: unshared tensors of the module, its bank, its optimizer."""
    folder: Path | None = None
    """Of its own, for what it keeps to be looked at; None: it has none."""
    policy: Policy = Policy()
    """What it agrees to send."""
    log: AuditLog = field(default_factory=lambda: AuditLog(Policy()))
    """Where it writes down what leaves."""

    @property
    def size(self) -> int:
        """Number of training images."""
        return len(self.images)
