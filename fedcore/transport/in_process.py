"""Ways of reaching the sites. All of them yield answers as they arrive."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedcore.algorithms.base import Visitor
from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.messages.message import Contribution, Message, Refusal
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import note
from fedcore.site.memory import InMemory, Memories
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer, implements

Answer = Contribution[Any] | Refusal
Tasks = Iterable[tuple[str, Message]]


@runtime_checkable
class Transport(Protocol):
    def names(self) -> Sequence[str]: ...
    def ask(self, visitor: Visitor, tasks: Tasks, turn: Round) -> Iterator[Answer]: ...


@dataclass
class InProcess:
    """Visits the sites one after another in this process; no copies beyond the weights themselves.

    A site that fails answers with a `Refusal` and keeps the memory it had before; its neighbours go on.
    """

    train: Mapping[str, Images]
    local: LocalTrainer
    test: Mapping[str, Images] = field(default_factory=dict)
    policy: Policy = Policy()
    memories: Memories = field(default_factory=InMemory)
    folder: Path | None = None
    """Parent of the sites' own folders, where their audit files are."""
    on_visit: Callable[[str], None] = lambda site: None
    """Told the site's name before each visit (progress bars)."""
    record: Path | None = None
    """Where the server books what is asked outside of rounds (`fedcore.runs.communication.note`)."""

    def names(self) -> Sequence[str]:
        return list(self.train)

    def site(self, name: str) -> Site:
        own = self.train[name], self.test.get(name), self.memories.get(name), self._folder(name)
        return Site(name, *own, self.policy)

    def ask(self, visitor: Visitor, tasks: Tasks, turn: Round) -> Iterator[Answer]:
        for name, down in tasks:
            self.on_visit(name)
            answer = self._visit(visitor, name, down, turn)
            if self.record is not None:
                note(self.record, type(visitor).__name__, name, down, answer)
            yield answer

    def _visit(self, visitor: Visitor, name: str, down: Message, turn: Round) -> Answer:
        site = self.site(name)
        border = AuditLog(self.policy, site.folder, self.local.levels)
        begun = time.perf_counter()
        try:
            with self.local.at(site):
                contribution = visitor.visit(site, down, self.local, turn)
            contribution = dataclasses.replace(contribution, seconds=time.perf_counter() - begun)
            released = border.release(contribution, turn)
        except SystemExit as e:
            # Lightning answers Ctrl-C within a fit by leaving the process; it is stopped as anywhere else.
            raise KeyboardInterrupt from e
        except Refused as e:
            border.note_refusal(str(e), turn)
            return Refusal(name, str(e))
        except Exception as e:
            # Whatever went wrong may quote pixels, paths or patients: the text stays at the site.
            border.note_error(e, traceback.format_exc(), turn)
            reason = f"{type(e).__name__} in {type(visitor).__name__}.visit; the site's errors.jsonl has it"
            border.note_refusal(reason, turn)
            return Refusal(name, reason, e)
        if implements(visitor, "start", "broadcast", "merge"):  # a survey leaves no trace
            self.memories.put(name, site.memory, turn)
        return released

    def _folder(self, name: str) -> Path | None:
        return self.folder / name if self.folder else None
