"""Hospitals that worker processes visit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import Refused
from fedcore.messages.answer import Answer, Contribution
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.messages.round import Round
from fedcore.server.sites import Sites
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedcore.transport.pickling import pack, unpack
from fedcore.transport.workers import Workers
from tests.fedcore.toys import (
    Hospitals,
    broken,
    hospitals,
    local,
)

TURN = Round(4, 9, 0)


HEAVY = Weights({"w": torch.zeros(3)})


NAMES = "abcdefghij"


PATIENCE = 60.0


@dataclass(frozen=True)
class Deputy:
    """What workers are given at their start, to do whatever a test will ask for: it has it read from a file."""

    metric_names = ("mean", "threads")

    file: Path

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        answer: Contribution[Any] = unpack(self.file.read_bytes()).visit(site, down, local, turn)
        return answer


@dataclass
class ByWorkers(Hospitals):
    """Hospitals that are visited by two processes, the same ones for whatever they are asked."""

    pool: Workers = field(default_factory=lambda: Workers(InProcess({}), 2))

    def sites(self, **words: Any) -> Sites:
        assert self.folder is not None
        files = {word: self.folder / f"{word}.pickle" for word in (TRAIN, EVALUATE, "query")}
        for word, visitor in words.items():
            files[word].write_bytes(pack(visitor))
        found = super().sites(**{word: Deputy(file) for word, file in files.items()})
        assert isinstance(found.transport, InProcess)
        self.pool.sites, found.transport = found.transport, self.pool
        return found


def alone(folder: Path) -> Hospitals:
    """Ten hospitals, and one whose loss is NaN."""
    trainer = local(Visit(batch_size=4, accelerator="cpu", keep_optimizer=True))
    return Hospitals(hospitals(NAMES) | {"nan": broken("nan")}, trainer, folder=folder)


def ask(transport: Hospitals, visitor: object, names: str | list[str] = "abc") -> list[Answer]:
    return list(transport.ask(visitor, ((name, Weights({})) for name in names), TURN))


@dataclass(frozen=True)
class Look:
    """An evaluation: measures, and would leave a trace if it could."""

    metric_names = ("mean", "threads")

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        local.load(down.tensors)
        site.memory = {"trace": torch.ones(1)}
        with local.measuring():
            mean = float(local.module.layer(site.images.batch([0]).flatten(1).nan_to_num()).mean())
        return Contribution(site.name, Empty(), site.size, {"mean": mean, "threads": float(torch.get_num_threads())})


@dataclass(frozen=True)
class Rendezvous:
    """Each site tells that it is there; those that wait for another end only once that one was there."""

    folder: Path
    waits: dict[str, str]

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        (self.folder / site.name).touch()
        until = time.monotonic() + PATIENCE
        while site.name in self.waits and not (self.folder / self.waits[site.name]).exists():
            if time.monotonic() > until:
                raise Refused("nobody came")
            time.sleep(0.01)
        return Contribution(site.name, Empty(), site.size)


@dataclass(frozen=True)
class Fatal(FedAvg):
    """At this site the process is killed, as by a machine without memory; or the visit stops the run."""

    at: str = ""
    how: str = "kill"

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        if site.name == self.at and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if site.name == self.at:
            raise SystemExit(1)  # as Lightning answers Ctrl-C
        site.memory = {"noted": torch.tensor(turn.index)}
        return Contribution(site.name, HEAVY, site.size)


def until(what: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < 4 * PATIENCE
        time.sleep(0.05)
