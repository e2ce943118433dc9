"""Rounds in which sites are late, silent, or answer what cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.message import Empty, Weights
from fedcore.messages.request import EVALUATE, TRAIN, Counted, Request
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import PeriodicEvaluation, QuorumMissed, Rounds, federate
from fedcore.server.sites import Sites
from tests.fedcore.federating import run, same
from tests.fedcore.toys import Hospitals, hospitals, local

LATE = "it gave no answer within 5 seconds"
SILENT = "silent"


@dataclass
class Between:
    """A transport that changes what a simulation answers: (site, its how many-th training) -> what arrives."""

    inner: Any
    changes: dict[tuple[str, int], Any] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    deadlines: list[float | None] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def names(self) -> Sequence[str]:
        return self.inner.names()  # type: ignore[no-any-return]

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        self.deadlines.append(deadline)
        for request in requests:
            self.requests.append(request)
            (answer,) = self.inner.ask([request])
            at = self.trained[request.site] = self.trained.get(request.site, 0) + (request.word == TRAIN)
            change = self.changes.get((request.site, at)) if request.word == TRAIN else None
            if change == SILENT:
                continue
            if change == LATE:  # the site trained; its answer came when nobody waited any more
                yield Refusal(request.site, LATE)
            elif change is not None:
                yield from change(answer)
            else:
                yield answer

    def flush(self, names: Iterable[str]) -> None:
        pass


def between(changes: dict[tuple[str, int], Any], names: str = "abc") -> tuple[Sites, Between, Hospitals]:
    of = Hospitals(hospitals(names), local())
    sites = of.sites(**{TRAIN: FedAvg(), EVALUATE: Nothing()})
    transport = Between(sites.transport, changes)
    return replace(sites, transport=transport), transport, of


class Nothing:
    metric_names = ("knn",)

    def visit(self, site: Any, down: Any, local: Any, turn: Any) -> Contribution[Empty]:
        return Contribution(site.name, Empty(), site.size, {"knn": 0.5})


def federated(
    changes: dict[tuple[str, int], Any], rounds: Rounds = Rounds(3), names: str = "abc", **more: Any
) -> tuple[Weights, list[RoundRecord], Between, Hospitals]:
    sites, transport, of = between(changes, names)
    records: list[RoundRecord] = []
    start = FedAvg().start(of.local)
    state = federate(FedAvg(), sites, start, rounds, 0, finished=lambda record, _: records.append(record), **more)
    return state, records, transport, of


def undisturbed(names: str = "abc", rounds: Rounds = Rounds(3)) -> tuple[Weights, Hospitals]:
    of = Hospitals({name: hospitals("abc")[name] for name in names}, local())
    return run(FedAvg(), of, rounds), of


@pytest.mark.parametrize("change", [LATE, SILENT], ids=["late", "silent"])
def test_a_round_goes_on_without_a_site_as_if_it_had_not_been_asked(change: Any) -> None:
    state, records, _, of = federated({("b", 1): change}, Rounds(1))
    expected, others = undisturbed("ac", Rounds(1))
    assert same(state.tensors, expected.tensors)
    assert of.memories.counted == others.memories.counted
    assert records[0].refused == ({"b": LATE} if change == LATE else {})
    assert records[0].sites["b"].examples == 0


def test_a_late_visit_does_not_count_and_the_site_goes_on_from_the_one_before() -> None:
    _, _, transport, of = federated({("b", 2): LATE})
    counted = {r.turn.index: r.counted for r in transport.requests if r.site == "b"}
    assert counted == {0: None, 1: Counted(0, True), 2: Counted(0, True)}
    assert of.memories.counted["b"] == Counted(2, True)
    # Its memory is a sum over all images seen: of rounds 0 and 2.
    seen = sum(float(of.train["b"].batch(range(12)).sum()) for _ in range(2))
    assert float(of.memories.get("b")["module/seen"]) == pytest.approx(seen, rel=1e-4)


def test_too_few_answers_end_the_run_and_name_each_site_with_its_reason() -> None:
    with pytest.raises(QuorumMissed) as caught:
        federated({("a", 1): LATE, ("b", 1): LATE}, Rounds(3, min_sites=2))
    assert str(caught.value) == f"round 0: 1 of 2 sites (rounds.min_sites) answered\n  a: {LATE}\n  b: {LATE}"


def test_no_answer_at_all_ends_the_run() -> None:
    with pytest.raises(QuorumMissed, match="round 1: no site gave a usable answer"):
        federated({(name, 2): LATE for name in "abc"})


def test_a_round_without_quorum_is_tried_again_and_equals_an_undisturbed_one() -> None:
    """State, memories and what counts are as if the round had been whole at once."""
    rounds = Rounds(3, min_sites=3, tries=3)
    state, records, transport, of = federated({("b", 2): LATE, ("a", 3): SILENT}, rounds)
    expected, others = undisturbed()
    assert same(state.tensors, expected.tensors)
    assert of.memories.counted == others.memories.counted
    assert all(same(of.memories.get(name), others.memories.get(name)) for name in "abc")
    assert transport.trained == dict.fromkeys("abc", 5)
    assert [record.refused for record in records] == [{}, {}, {}]
    assert records[1].sites["b"].down.total == 3 * records[0].sites["b"].down.total  # sent three times


def test_a_missed_round_changes_nothing() -> None:
    sites, transport, of = between({("b", 2): LATE})
    states: list[Any] = []
    with pytest.raises(QuorumMissed):
        federate(
            FedAvg(), sites, FedAvg().start(of.local), Rounds(3, min_sites=3), 0,
            finished=lambda record, state: states.append((state, dict(sites.counted))),
        )  # fmt: skip
    ((state, counted),) = states
    expected, others = undisturbed(rounds=Rounds(1))
    assert sites.counted == counted == others.memories.counted
    assert all(same(of.memories.get(name), others.memories.get(name)) for name in "abc")
    # Resumed, it ends as an undisturbed run.
    transport.changes.clear()
    end = federate(FedAvg(), sites, state, Rounds(3), 0, begin=1)
    assert same(end.tensors, undisturbed()[0].tensors)
    assert same(expected.tensors, state.tensors)


def test_after_the_last_try_the_run_ends() -> None:
    with pytest.raises(QuorumMissed, match=rf"round 0: 2 of 3 sites \(rounds.min_sites\) answered\n  b: {LATE}"):
        federated({("b", at): LATE for at in (1, 2)}, Rounds(1, min_sites=3, tries=2))


def test_a_site_that_answers_twice_counts_once() -> None:
    state, records, _, _ = federated({("b", 1): lambda answer: [answer, answer]})
    assert same(state.tensors, undisturbed()[0].tensors)
    assert records[0].sites["b"].up == records[1].sites["b"].up


def test_a_refusal_behind_an_answer_of_the_same_site_is_not_booked() -> None:
    state, records, _, _ = federated({("b", 1): lambda answer: [answer, Refusal("b", "no")]})
    assert same(state.tensors, undisturbed()[0].tensors)
    assert records[0].refused == {}


@pytest.mark.parametrize("stranger", [Refusal("x", "no"), Contribution("x", Weights({}), 1)], ids=["refusal", "answer"])
def test_what_comes_from_a_site_that_was_not_asked_is_dropped(stranger: Answer) -> None:
    state, records, _, of = federated({("b", 1): lambda answer: [stranger, answer]})
    assert same(state.tensors, undisturbed()[0].tensors)
    assert records[0].sites.keys() == {"a", "b", "c"}
    assert records[0].refused == {}
    assert of.memories.counted.keys() == {"a", "b", "c"}


def test_an_answer_that_cannot_be_used_is_booked_and_does_not_count() -> None:
    nan = torch.full((3, 64), float("nan"))
    change = lambda answer: [replace(answer, message=Weights({"layer.weight": nan}))]  # noqa: E731
    state, records, _, of = federated({("b", 1): change}, Rounds(1))
    assert same(state.tensors, undisturbed("ac", Rounds(1))[0].tensors)
    assert records[0].refused == {"b": "its answer was rejected: tensors/layer.weight is not finite"}
    assert records[0].sites["b"].up.weights == 3 * 64 * 4
    assert of.memories.counted.keys() == {"a", "c"}


def test_an_answer_of_another_kind_is_rejected() -> None:
    change = lambda answer: [replace(answer, message=Empty())]  # noqa: E731
    _, records, _, _ = federated({("b", 1): change}, Rounds(1))
    assert records[0].refused == {"b": "its answer was rejected: it holds Empty instead of the requested Weights"}


def test_rejected_answers_make_no_quorum() -> None:
    change = lambda answer: [replace(answer, examples=10**6)]  # noqa: E731
    with pytest.raises(QuorumMissed, match=r"2 of 3 sites .*\n  b: its answer was rejected: it reports 1000000 images"):
        federated({("b", 1): change}, Rounds(1, min_sites=3))


@pytest.mark.parametrize("deadline", [None, 2.5])
def test_the_deadline_is_passed_on_for_trainings_and_evaluations(deadline: float | None) -> None:
    _, _, transport, _ = federated({}, Rounds(2, deadline=deadline), evaluation=PeriodicEvaluation(EVALUATE, every=2))
    assert transport.deadlines == [deadline] * 3


def test_an_evaluation_of_a_site_that_was_not_asked_is_dropped() -> None:
    sites, transport, of = between({})
    ask = transport.ask

    def asked(requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        yield from ask(requests, deadline)
        yield Contribution("x", Empty(), 1, {"knn": 1.0})

    transport.ask = asked  # type: ignore[method-assign]
    records: list[RoundRecord] = []
    evaluation = PeriodicEvaluation(EVALUATE, every=1)
    federate(
        FedAvg(), sites, FedAvg().start(of.local), Rounds(1), 0, evaluation=evaluation,
        finished=lambda record, _: records.append(record),
    )  # fmt: skip
    assert records[0].evaluation == {name: {"knn": 0.5} for name in "abc"}


@pytest.mark.parametrize("values", [{"min_sites": 0}, {"tries": 0}, {"deadline": 0.0}, {"deadline": -1.0}], ids=str)
def test_a_schedule_that_asks_nothing_is_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"rounds.{name}.* must be"):
        Rounds(**values)
