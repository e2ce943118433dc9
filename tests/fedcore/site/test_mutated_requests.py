"""Requests and answers of which bits, pieces or values of the JSON are not as they were written."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import Refused
from fedcore.messages.agreement import Agreement, Built
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.encoding import WireError, kinds_of_messages
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import BUILD, EVALUATE, FACTS, TRAIN, Counted, Request
from fedcore.messages.round import Round
from fedcore.messages.wire import LONGEST_REASON, answer_bytes, answer_of, request_bytes, request_of
from fedcore.privacy.policy import Policy
from fedcore.server.validation import Sent, facts_error
from fedcore.site.facts import facts_of
from fedcore.site.memory import MemoryInRam
from fedcore.site.runtime import SiteRuntime, Workplace
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.site.mutations import file, mutated, parts
from tests.fedcore.toys import hospitals, local

COUNT = 10_000
"""In all, of requests and answers."""
TRAINED = 50
"""Requests that train, at most; others load what was sent."""
IMAGES = hospitals("a")["a"]
AGREED = Agreement(("cat", "dog"), 1, (8, 8), ("a", "b"), 2)
TURN = Round(1, 3, 0)
POLICY = Policy()


@dataclass
class Loads:
    """Takes what was sent into the module, and seldom trains on it."""

    metric_names = ("loss",)
    trained: int = 0
    visits: int = 0

    def visit(self, site: Site, down: Any, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        self.visits += 1
        if self.trained < TRAINED and self.visits % 20 == 0:
            self.trained += 1
            return FedAvg().visit(site, down, local, turn)
        local.load(down.tensors)
        return Contribution(site.name, Weights(local.shared()), site.size, {"loss": 0.5})


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def site(loads: Loads) -> SiteRuntime:
    """One that accepts any agreement."""
    trainer, places = local(), dict[Agreement, Workplace]()

    def settle(agreement: Agreement | None) -> Workplace:
        if agreement is None:
            raise Refused("there is no agreement yet")
        return places.setdefault(agreement, Workplace(IMAGES, IMAGES, trainer, {TRAIN: loads, EVALUATE: loads}, "abc"))

    return SiteRuntime("a", lambda: facts_of(IMAGES, IMAGES, POLICY), settle)


def answered(site: SiteRuntime, data: bytes) -> Answer:
    """By a site that remembers round 0."""
    site.memory = MemoryInRam({0: {"module/seen": torch.tensor(1.0)}})
    return answer_of(site.handle(data), "a", kinds_of_messages())


def modules() -> set[str]:
    """Those that are imported, but for what checks types in tests."""
    return {name for name in sys.modules if not name.startswith(("beartype", "wadler_lindig"))}


def requests() -> list[bytes]:
    weights = Weights(local().shared())
    made = [
        Request("a", FACTS, Empty(), TURN, run="a run"),
        Request("a", BUILD, Empty(), TURN, None, AGREED, "a run"),
        Request("a", TRAIN, weights, TURN, None, AGREED, "a run"),
        Request("a", TRAIN, weights, TURN, Counted(0, True), AGREED, "a run"),
        Request("a", EVALUATE, weights, TURN, Counted(0, False), AGREED, "a run"),
    ]
    return [request_bytes(request) for request in made]


def answers() -> list[bytes]:
    weights = Weights(local().shared())
    made: list[Answer] = [
        Contribution("a", weights, 8, {"loss": 0.5}, 1.25, keeps=True),
        Contribution("a", facts_of(IMAGES, None, POLICY, ("cat", "dog")), 0),
        Contribution("a", Built("abc"), 0),
        Refusal("a", "too loud"),
    ]
    return [answer_bytes(answer) for answer in made]


def test_every_original_is_read(site: SiteRuntime) -> None:
    kinds = kinds_of_messages()
    assert all(isinstance(answered(site, data), Contribution) for data in requests())
    assert [type(answer_of(data, "a", kinds)) for data in answers()] == [Contribution] * 3 + [Refusal]


def test_a_site_answers_whatever_it_receives(site: SiteRuntime, loads: Loads) -> None:
    before = modules()
    refused = trained = 0
    for data in mutated(requests(), COUNT // 2, seed=1):
        answer = answered(site, data)
        if isinstance(answer, Refusal):
            refused += 1
            assert answer.reason.isprintable()
            assert len(answer.reason) <= LONGEST_REASON
        else:
            trained += isinstance(answer.message, Weights)
    assert modules() == before
    assert refused > COUNT // 4  # most mutations are found
    assert trained > 0  # and some change a value that may be
    assert loads.trained <= TRAINED


def test_a_server_reads_whatever_it_receives() -> None:
    kinds, before = kinds_of_messages(), modules()
    state = Weights(local().shared())
    wrong, usable = list[str](), 0
    for data in mutated(answers(), COUNT // 2, seed=2):
        try:
            answer = answer_of(data, "a", kinds)
        except WireError as e:
            wrong.append(str(e))
            continue
        assert answer.site == "a"
        if isinstance(answer, Contribution):
            usable += error_of(answer, state) is None
    assert modules() == before
    assert len(wrong) > COUNT // 4
    assert all(map(str.isprintable, wrong))
    assert usable > 0


def error_of(answer: Contribution[Message], state: Weights) -> str | None:
    """As rounds and `Sites.of` look at it."""
    facts = facts_of(IMAGES, None, POLICY)
    if isinstance(answer.message, type(facts)):
        return facts_error(answer.message)
    return Sent(state, "FedAvg").error_of(answer, facts)


@pytest.mark.parametrize("depth", [10, 70, 2000, 100_000])
def test_brackets_in_brackets_end_nothing(site: SiteRuntime, depth: int) -> None:
    for data in (requests()[2], answers()[0]):
        head, header, body = parts(data)
        header["__metadata__"]["fedpretrain"] = brackets = "[" * depth + "]" * depth
        for nested in (file(head, header, body), len(brackets).to_bytes(8, "little") + brackets.encode() + body):
            with pytest.raises(WireError):
                request_of(nested, kinds_of_messages())
            assert isinstance(answered(site, nested), Refusal)


def test_a_header_that_claims_more_than_there_is_takes_no_memory(site: SiteRuntime) -> None:
    for length in (2**63, 2**40, 2**25):
        data = length.to_bytes(8, "little") + requests()[2][8:]
        assert isinstance(answered(site, data), Refusal)
    head, header, body = parts(requests()[2])
    for length in (2**63, 2**40, 2**25):
        start = len(file(head, header, body)) - len(body) - len(json.dumps(header)) - 8
        data = bytearray(file(head, header, body))
        data[start : start + 8] = length.to_bytes(8, "little")
        assert isinstance(answered(site, bytes(data)), Refusal)
    header["0"] |= {"shape": [2**40], "data_offsets": [0, 2**42]}
    assert isinstance(answered(site, file(head, header, body)), Refusal)
