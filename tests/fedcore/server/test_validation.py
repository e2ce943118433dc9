from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.exchanges.base import Combined
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Message, Weights
from fedcore.server.validation import MOST_IMAGES, Sent, facts_error
from tests.fedcore.server.test_agreement import facts
from tests.fedcore.toys import contribution

STATE = Weights({"w": torch.zeros(2, 3), "steps": torch.tensor(4)})
GOOD = {"w": torch.ones(2, 3), "steps": torch.tensor(5)}


def error_of(answer: Contribution[Any], state: Message = STATE, algorithm: Any = None) -> str | None:
    return Sent(state, algorithm).error_of(answer, facts())


def test_an_answer_like_the_state_can_be_used() -> None:
    assert error_of(contribution("a", 10, **GOOD)) is None
    assert error_of(contribution("a", 0, w=torch.ones(2, 3))) is None  # a part of the weights
    assert error_of(contribution("a", 1, anything=torch.ones(9)), Empty()) is None  # the server has no weights


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"w": torch.ones(3, 2)}, "w has shape (3, 2), and at the server it is (2, 3)"),
        ({"w": torch.ones(())}, "w has shape (), and at the server it is (2, 3)"),
        ({"v": torch.ones(2)}, "v has shape (2,), and at the server it is missing"),
        ({"w": torch.ones(2, 3).double()}, "w has type torch.float64, and at the server it is torch.float32"),
        ({"steps": torch.tensor(1.0)}, "steps has type torch.float32, and at the server it is torch.int64"),
        ({"w": torch.tensor([[float("nan")] * 3] * 2)}, "tensors/w is not finite"),
        ({"w": torch.tensor([[1.0, float("-inf"), 2.0]] * 2)}, "tensors/w is not finite"),
    ],
    ids=["shape", "0-dim", "name", "wider", "float for int", "NaN", "inf"],
)
def test_an_answer_unlike_the_state_is_an_error(tensors: dict[str, torch.Tensor], error: str) -> None:
    assert error_of(contribution("a", 1, **GOOD | tensors)) == error


def test_weights_are_found_in_messages_in_messages() -> None:
    inside = Combined(Weights({"w": torch.ones(1)}), Weights({"x": torch.ones(1)}))
    assert error_of(Contribution("a", inside, 1), Combined(STATE, Empty())) == (
        "w has shape (1,), and at the server it is (2, 3)"
    )


def test_large_finite_numbers_whose_sum_is_infinite_can_be_used() -> None:
    assert error_of(contribution("a", 1, w=torch.full((2, 3), 3e38))) is None


@pytest.mark.parametrize(
    ("count", "wrong"), [(0, False), (10, False), (11, True), (-1, True), (10**400, True)], ids=str
)
def test_a_site_reports_no_more_images_than_before_the_first_round(count: int, wrong: bool) -> None:
    error = error_of(contribution("a", count))
    assert (error is not None) == wrong
    if wrong:
        assert "number of images is -1" in str(error) or f"it reports {count} images" in str(error)


def test_an_answer_of_another_kind_is_an_error() -> None:
    error = error_of(Contribution("a", Empty(), 1), algorithm=FedAvg())
    assert error == "it holds Empty instead of the requested Weights"
    assert error_of(contribution("a", 1, **GOOD), algorithm=FedAvg()) is None


def test_who_writes_into_the_state_is_found() -> None:
    sent = Sent(Weights({"w": torch.zeros(2), "v": torch.zeros(2)}), FedAvg())
    sent.require_unchanged()
    sent.weights["v"].add_(1)
    with pytest.raises(InputError, match=r"FedAvg \(or a part of it\) wrote into tensors/v"):
        sent.require_unchanged()


def test_facts_of_a_site_with_any_part_of_images_can_be_used() -> None:
    assert facts_error(facts()) is None
    assert facts_error(facts(train=0, size=(1, 1, 1), mask_classes=3, classes=("Röntgen, groß",))) is None


@pytest.mark.parametrize(
    "values",
    [{"train": -1}, {"val": -1}, {"test": -2}, {"mask_classes": -1}, {"train": MOST_IMAGES + 1}, {"channels": 0},
     {"size": ()}, {"size": (8,)}, {"size": (8, 0)}, {"size": (1, 1, 1, 1)}, {"classes": ("a\x1b[2J",)},
     {"versions": ("torch 2\n",)}],
    ids=str,
)  # fmt: skip
def test_facts_that_no_site_has_are_an_error(values: dict[str, Any]) -> None:
    error = facts_error(replace(facts(), **values))
    assert error is not None
    assert error.isprintable()
