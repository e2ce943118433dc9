"""Where the memories of the sites are between visits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from fedcore.messages.message import Tensors
from fedcore.site.site import Round


@runtime_checkable
class Memories(Protocol):
    """What `put` stores counts once the round is committed; `fedcore.runs.checkpoint` keeps it on disk."""

    def get(self, site: str) -> Tensors: ...
    def put(self, site: str, memory: Tensors, turn: Round) -> None: ...


@dataclass
class InMemory:
    """For tests and short runs: all memories in RAM."""

    held: dict[str, Tensors] = field(default_factory=dict)

    def get(self, site: str) -> Tensors:
        return self.held.get(site, {})

    def put(self, site: str, memory: Tensors, turn: Round) -> None:
        self.held[site] = memory
