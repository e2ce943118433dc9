"""The loop over rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedcore.algorithms.base import Algorithm, Visitor
from fedcore.algorithms.properties import chooser_of
from fedcore.errors import InputError
from fedcore.messages.message import Contribution, Message, Refusal, Weights, is_finite, leaves, weights_of
from fedcore.runs.communication import RoundRecord
from fedcore.site.site import Round
from fedcore.transport.in_process import Answer, Tasks, Transport


@dataclass(frozen=True)
class Rounds:
    """The schedule of a run."""

    count: int = 10
    """Communication rounds."""
    per_round: int | None = None
    """Sites drawn for a round; every site if null."""

    def __post_init__(self) -> None:
        if self.count < 1 or (self.per_round is not None and self.per_round < 1):
            raise ValueError(f"rounds.count and rounds.per_round must be at least 1, got {self}")

    def draw(self, names: Sequence[str], turn: Round) -> list[str]:
        """Sites of this round; a function of seed and round alone, so a resumed run draws the same."""
        if self.per_round is None or self.per_round >= len(names):
            return list(names)
        return random.Random(turn.seed_of("server", "draw")).sample(list(names), self.per_round)


class NoSiteLeft(InputError):
    """Every site of a round refused or failed."""


@dataclass(frozen=True)
class PeriodicEvaluation:
    """A question between rounds, such as a kNN probe; it trains nothing.

    Asked are the sites that the round asked, and after the last round every site.
    """

    visitor: Visitor
    every: int = 5
    """Rounds between two; the last round always has one."""

    def due(self, turn: Round) -> bool:
        return (turn.index + 1) % self.every == 0 or turn.index + 1 == turn.count


def federate(
    algorithm: Algorithm, transport: Transport, state: Any, rounds: Rounds, seed: int, *,
    begin: int = 0, survey: PeriodicEvaluation | None = None,
    finished: Callable[[RoundRecord, Any], None] = lambda record, state: None,
) -> Any:  # fmt: skip
    """Runs the rounds from `begin` on and returns the server's last state.

    Args:
        algorithm: How sites cooperate.
        transport: How they are reached; it checks the sites' policies and audits what leaves them.
        state: The server's state after round `begin - 1`; `algorithm.start(local)` for a new run.
        rounds: Schedule.
        seed: Seed of every draw.
        begin: First round.
        survey: Asked every so many rounds, and after the last.
        finished: Told of each round, with the state after it (checkpoint, log, progress).

    Raises:
        NoSiteLeft: No site of a round gave an answer.
        InputError: Schedule and algorithm both say which sites a round asks.
    """
    for index in range(begin, rounds.count):
        turn, record, clock = Round(index, rounds.count, seed), RoundRecord(index), time.perf_counter()
        sent = _Sent(state, algorithm)
        asked = _asked(algorithm, state, rounds, transport.names(), turn)
        tasks = _broadcast(algorithm, sent, asked, turn, record)
        state = algorithm.merge(state, _arriving(transport.ask(algorithm, tasks, turn), sent, record))
        if survey and survey.due(turn):
            measured = _Sent(state, survey.visitor)
            tasks = _survey_tasks(measured, transport.names() if index + 1 == rounds.count else asked, record)
            _take(transport.ask(survey.visitor, tasks, turn), measured, record)
        record.seconds = round(time.perf_counter() - clock, 4)
        finished(record, state)
    return state


def _asked(algorithm: Algorithm, state: Message, rounds: Rounds, names: Sequence[str], turn: Round) -> list[str]:
    found = chooser_of(algorithm, state)
    if found is None:
        return rounds.draw(names, turn)
    chooser, own_state = found
    if rounds.per_round is not None:
        raise InputError(
            f"rounds.per_round must be null, because {type(chooser).__name__} chooses the sites of a round itself, "
            f"got {rounds.per_round}"
        )
    return chooser.choose(own_state, names, turn)


class _Sent:
    """The server's state while sites are visited.

    Sites are sent its own tensors, since a copy would be a model of memory a site. Torch counts what is written into a
    tensor, so a merge, a visit or a callback that does so is found before anything wrong is sent to the next site.
    """

    def __init__(self, state: Message, part: Any):
        self.state, self.weights, self._part = state, weights_of(state), type(part).__name__
        self._tensors = [(leaf.name, leaf.tensor, _writes(leaf.tensor)) for leaf in leaves(state)]

    def require_unchanged(self) -> None:
        for name, tensor, writes in self._tensors:
            if _writes(tensor) != writes:
                raise InputError(
                    f"{self._part} (or a part of it) wrote into {name}, a tensor of the server's state, while sites "
                    "were visited: later sites would be sent other weights; make new tensors instead, such as "
                    "a + b for a.add_(b)"
                )

    def fault(self, message: Message) -> str | None:
        """What is wrong with an answer, whichever site sent it."""
        for leaf in leaves(message):
            if not is_finite(leaf.tensor):
                return f"{leaf.name} is not finite"
        for name, t in weights_of(message).items() if self.weights else ():
            if name not in self.weights or self.weights[name].shape != t.shape:
                there = tuple(self.weights[name].shape) if name in self.weights else "not there"
                return f"{name} has shape {tuple(t.shape)}, and at the server it is {there}"
        return None


def _writes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _broadcast(algorithm: Algorithm, sent: _Sent, names: Iterable[str], turn: Round, record: RoundRecord) -> Tasks:
    for name in names:
        sent.require_unchanged()
        down = algorithm.broadcast(sent.state, name, turn)
        record.sent(name, down)
        yield name, down


def _survey_tasks(sent: _Sent, names: Iterable[str], record: RoundRecord) -> Tasks:
    """A survey is sent the weights alone, whatever else the algorithm's messages carry."""
    for name in names:
        sent.require_unchanged()
        down = Weights(sent.weights)
        record.sent(name, down)
        yield name, down


def _arriving(answers: Iterator[Answer], sent: _Sent, record: RoundRecord) -> Iterator[Contribution[Any]]:
    """Books every answer and passes the contributions on, one at a time; those that cannot be used are rejected."""
    arrived, cause = 0, None
    for answer in answers:
        if isinstance(answer, Refusal):
            record.failed(answer)
            cause = answer.cause
            continue
        if fault := sent.fault(answer.message):
            record.rejected(answer, f"its answer was rejected: {fault}")
            continue
        record.arrived(answer)
        arrived += 1
        yield answer
    sent.require_unchanged()
    if not arrived:
        reasons = "".join(f"\n  {site}: {reason}" for site, reason in record.refused.items())
        raise NoSiteLeft(f"round {record.round}: no site is left to go on with{reasons}") from cause


def _take(answers: Iterator[Answer], sent: _Sent, record: RoundRecord) -> None:
    for answer in answers:
        if isinstance(answer, Refusal):
            record.failed(answer)
        else:
            record.surveyed(answer)
    sent.require_unchanged()
