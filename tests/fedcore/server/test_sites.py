from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError, InputErrors
from fedcore.messages.agreement import Agreement, Built
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import BUILD, FACTS, TRAIN, Counted, Request
from fedcore.messages.round import Round
from fedcore.server.sites import Sites
from fedcore.transport.base import Transport
from tests.fedcore.server.test_agreement import facts
from tests.fedcore.toys import contribution

TURN = Round(2, 9, 0)


@dataclass
class Answers:
    """A transport that answers from a table, `(site, word)` before `word`."""

    table: Mapping[Any, Any]
    sites: Sequence[str] = ("a", "b")
    requests: list[Request] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)

    def names(self) -> Sequence[str]:
        return self.sites

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        self.deadlines.append(deadline)
        for request in requests:
            self.requests.append(request)
            said = self.table.get((request.site, request.word), self.table.get(request.word, ()))
            for each in said if isinstance(said, tuple) else (said,):
                if isinstance(each, Message):
                    yield Contribution(request.site, each, 1)
                else:
                    yield replace(each, site=each.site or request.site)

    def flush(self, names: Iterable[str]) -> None:
        pass


def sites(table: Mapping[Any, Any], **more: Any) -> tuple[Sites, Answers]:
    transport = Answers({FACTS: facts()} | dict(table), **more)
    found = Sites.of(transport, "a run")
    transport.requests.clear()
    return found, transport


def faults(table: Mapping[Any, Any], **more: Any) -> tuple[str, ...]:
    with pytest.raises(InputErrors) as caught:
        sites(table, **more)
    return caught.value.errors


def test_a_transport_is_one() -> None:
    assert isinstance(Answers({}), Transport)


def test_sites_agree_on_their_facts() -> None:
    found, _ = sites(
        {("b", FACTS): facts(train=0, classes=("eel",)), ("c", FACTS): facts(test=0)}, sites=("c", "b", "a")
    )
    assert found.agreement == Agreement(("cat", "dog", "eel"), 1, (8, 8), ("c", "b", "a"))
    assert found.names() == ["c", "b", "a"]
    assert found.training == ["c", "a"]
    assert found.testing == ["b", "a"]


def test_a_site_that_refuses_its_facts_takes_no_part_and_is_named() -> None:
    assert faults({("b", FACTS): Refusal("", "its manifest has no images")}) == ("b: its manifest has no images",)


def test_every_site_that_takes_no_part_is_named() -> None:
    table = {("a", FACTS): Empty(), ("b", FACTS): facts(train=-1), ("c", FACTS): ()}
    said = faults(table, sites=("a", "b", "c"))
    assert said[0] == "a: it sent no facts"
    assert said[1].startswith("b: its numbers of images")
    assert said[2] == "c: it gave no answer"


def test_sites_that_do_not_fit_are_named() -> None:
    assert faults({("b", FACTS): facts(size=(8, 9))})[1] == "b has images of 8 x 9 pixels"


def test_facts_of_a_site_that_nobody_knows_are_not_taken() -> None:
    stranger = Contribution("stranger", facts(size=(1, 1)), 0)
    found, _ = sites({("a", FACTS): (stranger, Contribution("a", facts(), 0), Contribution("a", facts(train=99), 0))})
    assert found.names() == ["a", "b"]
    assert found.facts["a"].train == 8


def test_a_federation_without_sites_is_an_error() -> None:
    with pytest.raises(InputError, match="there are no sites"):
        Sites.of(Answers({}, sites=()))


def test_a_request_says_which_visit_counts_what_was_agreed_on_and_the_run() -> None:
    found, transport = sites({TRAIN: Empty()})
    found.count(Contribution("b", Empty(), 1, keeps=True), Round(1, 9, 0))
    list(found.ask(TRAIN, ((name, Empty()) for name in "ab"), TURN, deadline=3.0))
    one, two = transport.requests
    assert (one.site, one.counted, two.site, two.counted) == ("a", None, "b", Counted(1, True))
    assert {(r.word, r.turn, r.agreement, r.run) for r in transport.requests} == {
        (TRAIN, TURN, found.agreement, "a run")
    }
    assert transport.deadlines[-1] == 3.0


def test_what_is_sent_is_made_one_site_at_a_time() -> None:
    found, _ = sites({TRAIN: Empty()})
    made: list[str] = []
    found.on_request = made.append
    answers = found.ask(TRAIN, ((name, Empty()) for name in "ab"), TURN)
    assert made == []
    next(answers)
    assert made == ["a"]


def test_a_query_is_answered_once_by_each_and_booked(tmp_path: Path) -> None:
    said = (contribution("stranger"), contribution("a", 1), contribution("a", 2))
    found, _ = sites({("a", "count"): said, ("b", "count"): Refusal("", "too few images")})
    found.record = tmp_path / "answers.jsonl"
    one, two = found.query("count", Empty(), ["a", "b"], TURN, Weights)
    assert isinstance(one, Contribution)
    assert (one.site, one.examples) == ("a", 1)
    assert two == Refusal("b", "too few images")
    lines = [json.loads(line) for line in found.record.read_text().splitlines()]
    assert [(line["request"], *line["sites"], line["refused"]) for line in lines] == [
        ("count", "a", {}), ("count", "b", {"b": "too few images"}),
    ]  # fmt: skip


def test_a_query_that_a_site_does_not_answer_is_refused() -> None:
    found, _ = sites({("a", "count"): Empty()})
    assert found.query("count", Empty(), ["a", "b"], TURN, Empty)[1] == Refusal("b", "it gave no answer")


def test_an_answer_to_a_query_that_cannot_be_used_is_a_refusal() -> None:
    bad = Weights({"w": torch.tensor([float("nan")])})
    found, _ = sites({("a", "count"): bad, ("b", "count"): contribution("b", 99)})
    one, two = found.query("count", Empty(), ["a", "b"], TURN, Weights)
    assert one == Refusal("a", "its answer was rejected: tensors/w is not finite")
    assert isinstance(two, Refusal)
    assert two.reason.startswith("its answer was rejected: it reports 99 images")


def test_where_every_site_must_answer_one_that_does_not_ends_it() -> None:
    found, _ = sites({("a", "count"): Empty(), ("b", "count"): Refusal("", "too few", ValueError("of mine"))})
    with pytest.raises(InputError, match="b could not be counted: too few") as caught:
        found.query_all("count", Empty(), ["a", "b"], TURN, Empty, "counted")
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(found.query_all("count", Empty(), ["a"], TURN, Empty, "counted")) == 1


def test_sites_that_build_another_module_are_named_with_their_versions() -> None:
    other = facts(versions=("fedpretrain 0.1.3", "torch 2.11.9"))
    table = {
        ("b", FACTS): other,
        BUILD: Built("abc"),
        ("b", BUILD): Built("xyz"),
        ("c", BUILD): Refusal("", "no memory"),
    }
    found, transport = sites(table | {("d", BUILD): Empty(), ("e", BUILD): ()}, sites="abcde")
    with pytest.raises(InputErrors) as caught:
        found.require_same_module("abc", ("fedpretrain 0.1.0", "torch 2.11.0"))
    ours = "fedpretrain 0.1.0, torch 2.11.0"
    assert caught.value.errors == (
        "b has fedpretrain 0.1.3, torch 2.11.9",
        "c: no memory",
        "d: its answer was rejected: it holds Empty instead of the requested Built",
        "e: it gave no answer",
    )
    assert f"The server has {ours}; install the same versions." in str(caught.value)
    assert {r.agreement for r in transport.requests} == {found.agreement}


def test_sites_that_build_the_same_module_go_on() -> None:
    found, _ = sites({BUILD: Built("abc")})
    found.require_same_module("abc", ())


def test_facts_are_asked_before_there_is_an_agreement() -> None:
    transport = Answers({FACTS: facts()})
    Sites.of(transport, "a run")
    assert {(r.word, r.agreement, r.counted, r.run) for r in transport.requests} == {(FACTS, None, None, "a run")}
