"""The loop over rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.properties import chooser_of
from fedcore.errors import InputError
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.messages.round import Round
from fedcore.runs.communication import RoundRecord
from fedcore.server.sites import Sites, Tasks
from fedcore.server.validation import Sent


@dataclass(frozen=True)
class Rounds:
    """The schedule of a run."""

    count: int = 10
    """Communication rounds."""
    per_round: int | None = None
    """Number of sites of a round, chosen at random; null: every site."""
    min_sites: int = 1
    """Number of sites whose answers a round needs (quorum). A round with fewer changes nothing; see `tries`."""
    tries: int = 1
    """Number of times that a round is tried until it has its quorum; then the run stops, and can be resumed."""
    deadline: float | None = None
    """Seconds that a site has for an answer; null: no limit. Not used in a simulation on one machine."""

    def __post_init__(self) -> None:
        if self.count < 1 or (self.per_round is not None and self.per_round < 1):
            raise ValueError(f"rounds.count and rounds.per_round must be at least 1, got {self}")
        if self.min_sites < 1 or self.tries < 1:
            raise ValueError(
                f"rounds.min_sites and rounds.tries must be at least 1, got {self.min_sites} and {self.tries}"
            )
        if self.deadline is not None and self.deadline <= 0:
            raise ValueError(f"rounds.deadline must be positive seconds or null, got {self.deadline}")

    def draw(self, names: Sequence[str], turn: Round) -> list[str]:
        """Sites of this round; a function of seed and round alone, so a resumed run draws the same."""
        if self.per_round is None or self.per_round >= len(names):
            return list(names)
        return random.Random(turn.seed_of("server", "draw")).sample(list(names), self.per_round)


class QuorumMissed(InputError):
    """Too few sites of a round gave an answer that can be used."""


@dataclass(frozen=True)
class PeriodicEvaluation:
    """Evaluation between rounds, such as a kNN probe; it trains nothing.

    The sites of the round are evaluated, and after the last round every site.
    """

    word: str = EVALUATE
    """What sites are asked for."""
    every: int = 5
    """Rounds between two evaluations; the last round always has one."""

    def due(self, turn: Round) -> bool:
        return (turn.index + 1) % self.every == 0 or turn.index + 1 == turn.count


def federate(
    algorithm: Algorithm, sites: Sites, state: Any, rounds: Rounds, seed: int, *,
    begin: int = 0, evaluation: PeriodicEvaluation | None = None,
    finished: Callable[[RoundRecord, Any], None] = lambda record, state: None,
) -> Any:  # fmt: skip
    """Runs the rounds from `begin` on and returns the server's last state.

    Args:
        algorithm: How sites cooperate.
        sites: Who takes part; each checks its policy and audits what it sends.
        state: The server's state after round `begin - 1`; `algorithm.start(local)` for a new run.
        rounds: Schedule.
        seed: Seed of every draw.
        begin: First round.
        evaluation: Done every so many rounds, and after the last.
        finished: Called after each round with its record and the state after it (checkpoint, log, progress).

    Raises:
        QuorumMissed: Fewer than `rounds.min_sites` sites of a round gave an answer that can be used.
        InputError: Schedule and algorithm both choose the sites of a round.
    """
    for index in range(begin, rounds.count):
        turn, record, clock = Round(index, rounds.count, seed), RoundRecord(index), time.perf_counter()
        asked = _asked(algorithm, state, rounds, sites.training, turn)
        state = _with_quorum(algorithm, sites, state, asked, turn, rounds, record)
        if evaluation and evaluation.due(turn):
            everybody = index + 1 == rounds.count
            names = sites.training if everybody else asked
            _evaluate(evaluation.word, sites, state, names, turn, rounds.deadline, record)
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


def _with_quorum(
    algorithm: Algorithm, sites: Sites, state: Any, asked: Sequence[str], turn: Round, rounds: Rounds,
    record: RoundRecord,
) -> Any:  # fmt: skip
    """The state after a round with enough answers; only then do the visits of these sites count."""
    for attempt in range(rounds.tries):
        sent, used = Sent(state, algorithm), list[Contribution[Any]]()
        tasks = _broadcast(algorithm, sent, asked, turn, record)
        answers = sites.ask(TRAIN, tasks, turn, rounds.deadline)
        try:
            merged = algorithm.merge(state, _usable(answers, sites, sent, record, rounds.min_sites, used))
        except QuorumMissed:
            if attempt + 1 == rounds.tries:
                raise
            record.repeat()
            continue
        for answer in used:
            sites.count(answer, turn)
        return merged
    raise AssertionError("rounds.tries is at least 1")


def _broadcast(algorithm: Algorithm, sent: Sent, names: Iterable[str], turn: Round, record: RoundRecord) -> Tasks:
    for name in names:
        sent.require_unchanged()
        down = algorithm.broadcast(sent.state, name, turn)
        record.sent(name, down)
        yield name, down


def _usable(
    answers: Iterator[Answer], sites: Sites, sent: Sent, record: RoundRecord, least: int, used: list[Contribution[Any]]
) -> Iterator[Contribution[Any]]:
    """Books every answer and passes on those that can be used, one at a time; `used` keeps them without messages."""
    cause = None
    for answer in answers:
        if answer.site not in record.sites or any(answer.site == other.site for other in used):
            continue  # nobody asked this site, or it has answered already
        if isinstance(answer, Refusal):
            record.failed(answer)
            cause = answer.cause
            continue
        if error := sent.error_of(answer, sites.facts.get(answer.site)):
            record.rejected(answer, f"its answer was rejected: {error}")
            continue
        record.arrived(answer)
        used.append(_without_message(answer))
        yield answer
    sent.require_unchanged()
    if len(used) < least:
        reasons = "".join(f"\n  {site}: {reason}" for site, reason in record.refused.items())
        needed = (
            "no site gave a usable answer" if not used else f"{len(used)} of {least} sites (rounds.min_sites) answered"
        )
        raise QuorumMissed(f"round {record.round}: {needed}{reasons}") from cause


def _evaluate(
    word: str, sites: Sites, state: Any, names: Sequence[str], turn: Round, deadline: float | None, record: RoundRecord
) -> None:
    """Sites are sent the weights alone, whatever else the algorithm's messages carry."""
    sent = Sent(state, None, word)

    def tasks() -> Tasks:
        for name in names:
            sent.require_unchanged()
            down = Weights(sent.weights)
            record.sent(name, down)
            yield name, down

    for answer in sites.ask(word, tasks(), turn, deadline):
        if answer.site not in names or answer.site in record.evaluation:
            continue
        if isinstance(answer, Refusal):
            record.failed(answer)
        elif error := sent.error_of(answer, sites.facts.get(answer.site)):
            record.rejected(answer, f"its answer was rejected: {error}")
        else:
            record.evaluated(answer)
    sent.require_unchanged()


def _without_message(answer: Contribution[Any]) -> Contribution[Any]:
    """What the server notes of an answer; a model a site would be held otherwise."""
    return replace(answer, message=Empty())
