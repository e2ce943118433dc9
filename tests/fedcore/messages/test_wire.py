from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedcore.messages import wire
from fedcore.messages.agreement import Agreement, Facts
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.message import Empty, Weights
from fedcore.messages.request import TRAIN, Counted, Request
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.messages.wire import answer_bytes, answer_of, request_bytes, request_of
from tests.fedcore.messages.samples import ODD, kinds, same_message, sample

SECRET = "Jane Doe"
TURN = Round(3, 9, 7)
AGREED = Agreement(("cat", "dog"), 1, (8, 8), ("a", "b"), 2)
REQUEST = Request("a", TRAIN, Weights(dict(ODD)), TURN, Counted(2, True), AGREED, "a run", "its digest")
ANSWER = Contribution("a", Weights({"w": torch.ones(2)}), 12, {"loss": 0.5}, 1.25, Reveals.STATISTICS, keeps=True)


def returned(request: Request) -> Request:
    return request_of(request_bytes(request), kinds_of_messages())


def answered(answer: Any) -> Any:
    return answer_of(answer_bytes(answer), answer.site, kinds_of_messages())


@pytest.mark.parametrize("name", sorted(kinds()))
def test_a_message_of_every_kind_returns_as_it_was(name: str) -> None:
    message = sample(kinds()[name])
    assert same_message(returned(replace(REQUEST, message=message)).message, message)
    assert same_message(answered(replace(ANSWER, message=message)).message, message)


@pytest.mark.parametrize("counted", [None, Counted(0, False), Counted(12, True)], ids=str)
@pytest.mark.parametrize("agreement", [None, AGREED], ids=["before the agreement", "agreed"])
def test_a_request_returns_with_all_that_goes_with_it(counted: Counted | None, agreement: Agreement | None) -> None:
    request = replace(REQUEST, counted=counted, agreement=agreement)
    found = returned(request)
    assert same_message(found.message, request.message)
    assert replace(found, message=Empty()) == replace(request, message=Empty())


def test_an_answer_returns_with_all_that_goes_with_it() -> None:
    found = answered(ANSWER)
    assert same_message(found.message, ANSWER.message)
    assert replace(found, message=Empty()) == replace(ANSWER, message=Empty())
    assert answered(replace(ANSWER, metrics={})).metrics == {}


def test_a_refusal_is_its_sentence_and_never_its_cause() -> None:
    data = answer_bytes(Refusal("a", "too loud", ValueError(SECRET)))
    assert SECRET.encode() not in data
    assert answer_of(data, "a", kinds_of_messages()) == Refusal("a", "too loud")


def test_a_refusal_is_printed_without_control_characters_and_cut() -> None:
    assert answered(Refusal("a", "no\x1b[2J\nimages")).reason == "no [2J images"
    assert len(answered(Refusal("a", "x" * 10_000)).reason) == wire.LONGEST_REASON


def test_dicts_keep_their_order() -> None:
    names = ["w", "a", "m", "10", "9"]
    assert list(returned(replace(REQUEST, message=Weights({n: torch.ones(1) for n in names}))).message.tensors) == names


def test_tied_weights_return_as_two_equal_tensors() -> None:
    layer = nn.Linear(3, 3)
    tied = Weights({"one": layer.weight, "two": layer.weight, "row": layer.weight[0]})
    found = returned(replace(REQUEST, message=tied)).message.tensors
    assert torch.equal(found["one"], found["two"])
    assert torch.equal(found["row"], layer.weight[0])
    assert found["one"].data_ptr() != found["two"].data_ptr()


def test_infinite_weights_pass_here_and_are_the_servers_to_reject() -> None:
    found = answered(replace(ANSWER, message=Weights({"w": torch.tensor([float("nan"), float("inf")])})))
    assert found.message.tensors["w"].isnan().tolist() == [True, False]


def test_facts_return_as_they_were() -> None:
    facts = Facts(12, 0, 3, ("cat", "dog"), 1, (8, 8), 0, 3, "a1b2", ("torch 2.11",))
    assert answered(replace(ANSWER, message=facts)).message == facts
