"""Sites of a round visited at the same time, each by a process; they take the GPUs in turn, and may share one.

A worker holds an `InProcess` of its own, with a copy of the module, and visits by the same code. Everything random
in a visit hangs on (seed, round, site), and answers are handed on in the order of the tasks, so the law is

    a run with N workers  =  a run in one process, to the bit, at equal threads a visit

Sums depend on the number of threads; the workers share out those that torch has here, and have at least one each.

Sites and server are here parts of one program on one machine. So what passes between its processes is pickled
(`fedcore.transport.pickling`), against the rule that nothing received is unpickled; a site's border stands in the
worker, before anything is passed on.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

import torch

from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Answer, Refusal
from fedcore.messages.request import Request
from fedcore.site.memory import MemoryInRam
from fedcore.transport.in_process import InProcess
from fedcore.transport.pickling import pack
from fedcore.transport.worker import Died, Done, Errand, Outfit, Worker

_AHEAD = 4
"""Visits a worker that may be begun before the first of them all is done: what a large site may hold up."""


@dataclass
class Workers:
    """Visits `sites` by processes that start when they are first needed and are kept until `close`.

    A visit that fails does what it does in one process: its site refuses, and keeps the memory it had. So does one
    whose process dies (killed, out of memory); another process then takes its place.

    A process takes half a gigabyte and its own copy of module, training and images in RAM (maps of files are shared).
    On a GPU its context takes about as much again. Up to four answers a worker wait in memory behind a large site.
    """

    sites: InProcess
    """Where images, policy, memories and audit files are; its own module is not used."""
    count: int = 2
    """Processes; never more than sites."""
    _crew: list[Worker] = field(default_factory=list, init=False)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def names(self) -> Sequence[str]:
        return self.sites.names()

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        """Answers in the order of the requests; `deadline` does not apply on one machine.

        Raises:
            InputError: No process can be started, or it cannot use what it is sent.
            KeyboardInterrupt: The run is to stop, as a visit or the user says.
        """
        try:
            if not self._crew:
                self._hire(range(self._size))
            yield from self._answers(_Asked(iter(requests)))
        except BaseException:
            self.close()  # nobody waits any more for the visits under way
            raise

    def flush(self, names: Iterable[str]) -> None:
        self.sites.flush(names)

    def close(self) -> None:
        """Ends the processes, whatever they do; another `ask` would start others."""
        while self._crew:
            self._crew.pop().end()

    @property
    def _size(self) -> int:
        return max(1, min(self.count, len(self.names())))

    def _hire(self, places: Sequence[int]) -> None:
        """New workers for these places; they import at the same time, which is most of what a start takes."""
        sites = InProcess({name: replace(site, memory=MemoryInRam()) for name, site in self.sites.sites.items()})
        threads = max(1, torch.get_num_threads() // self._size)
        outfit = _packed(Outfit(sites, threads, list(warnings.filters)))
        for place in places:
            self._crew.append(Worker(place))
        hired = self._crew[-len(places) :]
        for worker in hired:
            worker.send(outfit)
        for worker in hired:
            _await_start(worker)

    def _answers(self, asked: _Asked) -> Iterator[Answer]:
        while True:
            self._hand_out(asked)
            if not asked.visits:
                return
            self._gather(asked)
            if done := asked.visits[0].done:
                done_visit = asked.visits.popleft()
                if done.memory is not None:
                    request = done_visit.request
                    self.sites.sites[request.site].memory.put(done.memory, request.turn.index, request.counted)
                yield done.answer

    def _hand_out(self, asked: _Asked) -> None:
        """Gives every free worker a visit, as long as there are any and not too many wait for an earlier one."""
        for worker in self._crew:
            if worker in asked.busy or len(asked.visits) >= _AHEAD * len(self._crew):
                continue
            if request := next(asked.todo, None):
                asked.busy[worker] = visit = _Visit(request)
                asked.visits.append(visit)
                try:
                    memory = self.sites.sites[request.site].memory.get(request.counted)
                except Refused as e:
                    visit.done = Done(self.sites.sites[request.site].refuse(str(e), request), None)
                    del asked.busy[worker]
                    continue
                worker.send(_packed(Errand(request, memory)))

    def _gather(self, asked: _Asked) -> None:
        """Takes what is done; waits for it where nothing can be handed on."""
        ready = wait([worker.pipe for worker in asked.busy], timeout=0 if asked.visits[0].done else None)
        for worker in [worker for worker in asked.busy if worker.pipe in ready]:
            visit = asked.busy.pop(worker)
            try:
                visit.done = worker.receive()
            except Died as e:
                reason = f"the worker process of the visit ended unexpectedly ({e})"
                visit.done = Done(Refusal(visit.request.site, reason), None)
                self._crew.remove(worker)
                self._hire([worker.place])


@dataclass
class _Visit:
    """A visit that was handed out; `done` is None while it lasts."""

    request: Request
    done: Done | None = None


@dataclass
class _Asked:
    """How far an `ask` has come."""

    todo: Iterator[Request]
    visits: deque[_Visit] = field(default_factory=deque)
    """Handed out and not yet handed on, in the order of the tasks."""
    busy: dict[Worker, _Visit] = field(default_factory=dict)


def _await_start(worker: Worker) -> None:
    try:
        worker.receive()
    except Died as e:
        raise InputError(
            f"a worker process ended while it started ({e}); a script must train under "
            "`if __name__ == '__main__':`; if memory is short, lower workers"
        ) from e


def _packed(thing: Any) -> bytes:
    try:
        return pack(thing)
    except Exception as e:
        raise InputError(
            f"a worker process cannot be given all it needs ({type(e).__name__}: {e}); define classes at the top of "
            "a module, or set workers to 1"
        ) from e
