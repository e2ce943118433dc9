"""Runs of toy hospitals: whole, stopped and resumed, and compared to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedcore.messages.message import Message, flatten
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server import rounds as rounds_of
from fedcore.server.rounds import PeriodicEvaluation, Rounds
from fedcore.site.memory import FOLDER, MemoryOnDisk
from tests.fedcore.toys import Hospitals, Remembered


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether names, dtypes and values are exactly equal."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def federate(
    algorithm: Any, hospitals: Hospitals, state: Any, rounds: Rounds, seed: int, *, evaluator: Any = None,
    every: int = 5, **how: Any,
) -> Any:  # fmt: skip
    """As `fedcore.server.rounds.federate`, of hospitals that `evaluator` may be asked about between rounds."""
    words = {TRAIN: algorithm} | ({EVALUATE: evaluator} if evaluator else {})
    evaluation = PeriodicEvaluation(EVALUATE, every) if evaluator else None
    return rounds_of.federate(algorithm, hospitals.sites(**words), state, rounds, seed, evaluation=evaluation, **how)


def run(algorithm: Any, hospitals: Hospitals, rounds: Rounds = Rounds(3)) -> Any:
    """The server's last state; the sites' are with the hospitals."""
    return federate(algorithm, hospitals, algorithm.start(hospitals.local), rounds, 0)


class Stop(Exception):
    """Ends a run after a round is committed."""


def assert_resumes(algorithm: Any, make: Callable[[], Hospitals], folder: Path, rounds: Rounds = Rounds(4)) -> None:
    """A run stopped behind its second round, and gone on with from disk alone, ends as an uninterrupted one."""

    def to_disk(begin: int, until: int) -> tuple[Any, Hospitals]:
        checkpoint = Checkpoint.open(folder / "state")
        hospitals = replace(make(), folder=folder / "sites", on_disk=True, memories=Remembered())
        hospitals.memories.counted = dict(checkpoint.counted)
        state = algorithm.start(hospitals.local)
        if begin:
            state = checkpoint.restore(state)

        def finished(record: Any, state: Message) -> None:
            checkpoint.commit(record.round, state, None, hospitals.memories.counted)
            if record.round + 1 == until:
                raise Stop

        return federate(algorithm, hospitals, state, rounds, 0, begin=begin, finished=finished), hospitals

    whole = make()
    expected = run(algorithm, whole, rounds)
    try:
        to_disk(0, until=2)
    except Stop:
        state, resumed = to_disk(2, until=-1)
    assert same(flatten(state), flatten(expected))
    for name in whole.names():
        kept = MemoryOnDisk(folder / "sites" / name / FOLDER).get(resumed.memories.counted.get(name))
        assert same(kept, whole.memories.get(name))
