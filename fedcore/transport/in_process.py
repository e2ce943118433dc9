"""All sites in this process: a simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedcore.messages.answer import Answer
from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.request import Request
from fedcore.messages.wire import answer_of, request_bytes
from fedcore.site.memory import MemoryOnDisk
from fedcore.site.runtime import SiteRuntime


@dataclass
class InProcess:
    """Visits the sites one after another in this process; no copies beyond the weights themselves."""

    sites: Mapping[str, SiteRuntime]
    through_bytes: bool = False
    """Carry requests and answers as bytes, as between processes: the same results, for tests."""

    def names(self) -> Sequence[str]:
        return list(self.sites)

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        """`deadline` does not apply: one site works at a time, and the caller waits for it."""
        for request in requests:
            site = self.sites[request.site]
            if self.through_bytes:
                yield answer_of(site.handle(request_bytes(request)), request.site, kinds_of_messages())
            else:
                yield site.answer(request)

    def flush(self, names: Iterable[str]) -> None:
        for name in names:
            memory = self.sites[name].memory
            if isinstance(memory, MemoryOnDisk):
                memory.sync()
