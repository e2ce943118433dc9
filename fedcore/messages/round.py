"""A round, as messages name it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """Where the schedule stands when a site is visited."""

    index: int
    count: int
    seed: int

    def seed_of(self, site: str, purpose: str = "visit") -> int:
        """Seed of one visit; the same after a resume and under any order of visits."""
        return zlib.crc32(f"{self.seed}/{self.index}/{site}/{purpose}".encode())
