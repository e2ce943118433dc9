"""The loop over rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.algorithm import Algorithm, Visitor, draws_of
from fedcore.errors import InputError
from fedcore.ledger import RoundRecord
from fedcore.message import Contribution, Message, Refusal, Weights, weights_of
from fedcore.site import Round
from fedcore.transport import Answer, Tasks, Transport


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
class Survey:
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
    begin: int = 0, survey: Survey | None = None,
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
        asked = _asked(algorithm, rounds, transport.names(), turn)
        tasks = _broadcast(algorithm, state, asked, turn, record)
        state = algorithm.merge(state, _arriving(transport.ask(algorithm, tasks, turn), record))
        if survey and survey.due(turn):
            tasks = _survey_tasks(state, transport.names() if index + 1 == rounds.count else asked, record)
            _take(transport.ask(survey.visitor, tasks, turn), record)
        record.seconds = round(time.perf_counter() - clock, 4)
        finished(record, state)
    return state


def _asked(algorithm: Algorithm, rounds: Rounds, names: Sequence[str], turn: Round) -> list[str]:
    draws = draws_of(algorithm)
    if draws is None:
        return rounds.draw(names, turn)
    if rounds.per_round is not None:
        raise InputError(
            f"rounds.per_round must be null, because {type(draws).__name__} says itself which sites a round asks, "
            f"got {rounds.per_round}"
        )
    return draws.draw(names, turn)


def _broadcast(algorithm: Algorithm, state: Message, names: Iterable[str], turn: Round, record: RoundRecord) -> Tasks:
    for name in names:
        down = algorithm.broadcast(state, name, turn)
        record.sent(name, down)
        yield name, down


def _survey_tasks(state: Message, names: Iterable[str], record: RoundRecord) -> Tasks:
    """A survey is sent the weights alone, whatever else the algorithm's messages carry."""
    for name in names:
        down = Weights(weights_of(state))
        record.sent(name, down)
        yield name, down


def _arriving(answers: Iterator[Answer], record: RoundRecord) -> Iterator[Contribution[Any]]:
    """Books every answer and passes the contributions on, one at a time."""
    arrived, cause = 0, None
    for answer in answers:
        if isinstance(answer, Refusal):
            record.failed(answer)
            cause = answer.cause
            continue
        record.arrived(answer)
        arrived += 1
        yield answer
    if not arrived:
        reasons = "".join(f"\n  {site}: {reason}" for site, reason in record.refused.items())
        raise NoSiteLeft(f"round {record.round}: no site is left to go on with{reasons}") from cause


def _take(answers: Iterator[Answer], record: RoundRecord) -> None:
    for answer in answers:
        if isinstance(answer, Refusal):
            record.failed(answer)
        else:
            record.surveyed(answer)
