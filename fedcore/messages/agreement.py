"""What sites say of their images before the first round, and what server and sites agree on from that."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedcore.messages.message import Message
from fedcore.messages.reveals import WEIGHTS


@dataclass(frozen=True)
class Facts(Message):
    """What a site says before the first round: counts and shapes, no value of a pixel. Goes with every run: WEIGHTS."""

    train: int = field(metadata=WEIGHTS)
    """Training images, as far as `policy.counts` lets it be known; the same holds for `val` and `test`."""
    val: int = field(metadata=WEIGHTS)
    test: int = field(metadata=WEIGHTS)
    classes: tuple[str, ...] = field(metadata=WEIGHTS)
    """Names of the site's classes, sorted."""
    channels: int = field(metadata=WEIGHTS)
    size: tuple[int, ...] = field(metadata=WEIGHTS)
    """Pixels along each axis, 2 or 3 numbers."""
    mask_classes: int = field(metadata=WEIGHTS)
    """One more than the highest number in the site's masks; 0 where the recipe uses no masks."""
    without_spacing: int = field(metadata=WEIGHTS)
    """Test images whose files state no pixel size, as `policy.counts` lets it be known."""
    data: str = field(metadata=WEIGHTS)
    """Digest of the site's images: an exact resume needs the same ones."""
    versions: tuple[str, ...] = field(metadata=WEIGHTS)
    """`package version` of what decides how a module is built and trained."""


@dataclass(frozen=True)
class Agreement(Message):
    """What every site and the server build the same module from."""

    classes: tuple[str, ...] = field(metadata=WEIGHTS)
    channels: int = field(metadata=WEIGHTS)
    size: tuple[int, ...] = field(metadata=WEIGHTS)
    sites: tuple[str, ...] = field(metadata=WEIGHTS)
    """Names of all sites, for modules that are conditioned on the site."""
    mask_classes: int = field(default=0, metadata=WEIGHTS)
    start: str = field(default="", metadata=WEIGHTS)
    """Checksum of the module that the run starts from, where its weights come from the server; empty: the module as the
    recipe builds it."""

    @property
    def spatial_dims(self) -> int:
        return len(self.size)


@dataclass(frozen=True)
class Built(Message):
    """A site's answer to the agreement: it has built its module."""

    checksum: str = field(metadata=WEIGHTS)
    """SHA-256 of the freshly built module's state; another one than the server's is another module."""
