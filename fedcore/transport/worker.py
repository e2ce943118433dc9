"""One process that visits sites for another, as `fedcore.transport.workers` has several of."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import torch

from fedcore.errors import InputError
from fedcore.messages.answer import Answer, Refusal
from fedcore.messages.request import Counted, Request
from fedcore.messages.tensors import Tensors
from fedcore.site.runtime import Ready
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.malloc import keep_large_blocks
from fedcore.transport.in_process import InProcess
from fedcore.transport.pickling import pack, unpack

_DYING_SECONDS = 10.0
"""A process that has closed its pipe is given so long to leave its exit code."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Outfit:
    """What a worker is given once, at its start."""

    sites: InProcess
    threads: int
    """Of torch."""
    filters: list[Any]
    """Python's filters of warnings: what is worth one is decided by the program, not by each of its workers."""


@dataclass(frozen=True)
class Errand:
    """What a worker is given for each visit."""

    request: Request
    memory: Tensors
    """What the site remembers; a worker has no disk of its own."""


@dataclass(frozen=True)
class Done:
    """What comes back of it."""

    answer: Answer
    memory: Tensors | None
    """What the site's memory has become; None: as it was."""


class Died(Exception):
    """The process ended; its text says how."""


class Worker:
    """The process, seen from the one that starts it."""

    def __init__(self, place: int = 0) -> None:
        self.place = place
        """Among the workers, by which they share out the GPUs."""
        context = get_context("spawn")  # CUDA forbids forks, and OpenMP's threads do not survive one
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, gpu_of(place)), daemon=True)
        with _deaf_to_ctrl_c():
            self.process.start()
        theirs.close()

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # it has died, which `receive` will tell
            self.pipe.send_bytes(data)

    def receive(self) -> Done | None:
        """Waits for what it says: None once it has started, else how its errand ended.

        Raises:
            Died: It ended instead.
            InputError: It cannot use what it was sent.
            KeyboardInterrupt: The visit wants the run to stop.
        """
        try:
            said = self.pipe.recv_bytes()
        except (EOFError, OSError) as e:
            self.process.join(_DYING_SECONDS)
            self.end()
            raise Died(f"exit code {self.process.exitcode}") from e
        result = unpack(said)
        if isinstance(result, BaseException):
            raise result
        done: Done | None = result
        return done

    def end(self) -> None:
        """Killed, since Lightning puts off a termination until its batch is done; it holds nothing to be saved."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process started inside does not hear Ctrl-C, not even while it imports; its parent stops it."""
    resource_tracker.ensure_running()  # else it starts with the first process, and lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def gpu_of(place: int) -> str | None:
    """What CUDA calls the GPU of a worker, where there are several: workers take them in turn."""
    count = torch.cuda.device_count()
    if count < 2:
        return None
    chosen = os.environ.get(_VISIBLE)
    return (chosen.split(",") if chosen else [str(gpu) for gpu in range(count)])[place % count]


def _work(pipe: Connection, gpu: str | None) -> None:
    """The life of the process, until its parent closes the pipe or ends."""
    if gpu is not None:
        os.environ[_VISIBLE] = gpu  # read when CUDA is first asked for something
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):
        sites, said = _settled(pipe.recv_bytes())
        pipe.send_bytes(said)
        while sites:
            pipe.send_bytes(_visited(sites, pipe.recv_bytes()))


def _settled(data: bytes) -> tuple[InProcess | None, bytes]:
    try:
        outfit: Outfit = unpack(data)
    except Exception as e:
        return None, pack(_useless(e))
    keep_large_blocks()
    torch.set_num_threads(outfit.threads)
    warnings.resetwarnings()
    warnings.filters[:] = outfit.filters  # type: ignore[index]
    return _rebuilt(outfit.sites), pack(None)


def _rebuilt(sites: InProcess) -> InProcess:
    """The same with one module made here, since what torch compiled for it (`visit.compile`) does not travel."""
    made: dict[int, LocalTrainer] = {}
    found = {}
    for name, site in sites.sites.items():
        place = site.settle(None)
        assert place.local is not None, "who trains has a module"
        if id(place.local) not in made:
            made[id(place.local)] = rebuilt(place.local)
        found[name] = replace(site, settle=Ready(replace(place, local=made[id(place.local)])))
    return replace(sites, sites=found)


def rebuilt(local: LocalTrainer) -> LocalTrainer:
    local.reset({})
    return LocalTrainer(local.module, local.share, local.visit)


def _visited(sites: InProcess, data: bytes) -> bytes:
    try:
        return pack(_visit(sites, unpack(data)))
    except KeyboardInterrupt as e:
        return pack(e)
    except Exception as e:  # not the visit's, which has become a refusal
        return pack(_useless(e))


def _visit(sites: InProcess, errand: Errand) -> Done:
    memory = _Memory(errand.memory)
    site = replace(sites.sites[errand.request.site], memory=memory)
    answer = site.answer(errand.request)
    if isinstance(answer, Refusal):
        answer = replace(answer, cause=None)  # its text stays at the site
    return Done(answer, memory.after)


@dataclass
class _Memory:
    """The memory of the one site that is being visited, and what the visit made of it."""

    before: Tensors
    after: Tensors | None = None

    def get(self, counted: Counted | None) -> Tensors:
        return self.before

    def put(self, tensors: Tensors, turn: int, counted: Counted | None) -> None:
        self.after = tensors


def _useless(error: Exception) -> InputError:
    return InputError(
        f"a worker process cannot use what it was given ({type(error).__name__}: {error}); define the classes "
        "and functions of a recipe or script in modules that can be imported, not in a notebook, or set workers to 1"
    )


def _end_with_parent() -> None:
    """A parent that was killed leaves no process that trains on and writes into its run."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
