from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedcore.errors import InputError
from fedcore.messages.message import (
    Empty,
    Message,
    Weights,
    exposure,
    flatten,
    is_finite,
    leaves,
    nbytes,
    unflatten,
    weights_of,
)
from fedcore.messages.reveals import FEATURES, STATISTICS, Reveals
from tests.fedcore.federating import same


@dataclass(frozen=True)
class Bank(Message):
    rows: Tensor = field(metadata=FEATURES)
    born: Tensor = field(metadata=STATISTICS)


@dataclass(frozen=True)
class Pair(Message):
    left: Message
    right: Message


TENSORS = st.builds(
    lambda shape, dtype: torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float16, torch.int64, torch.int8, torch.bool]),
)
MESSAGES = st.recursive(
    st.just(Empty())
    | st.builds(Bank, TENSORS, TENSORS)
    | st.builds(Weights, st.dictionaries(st.text("left/.", max_size=6), TENSORS, max_size=3)),
    lambda inner: st.builds(Pair, inner, inner),
    max_leaves=5,
)


def blank(message: Message) -> Message:
    """A message of the same shape that holds nothing."""
    match message:
        case Pair(left, right):
            return Pair(blank(left), blank(right))
        case Bank():
            return Bank(torch.empty(0), torch.empty(0))
        case Weights():
            return Weights({})
    return message


@given(MESSAGES)
def test_unflatten_is_the_inverse_of_flatten(message: Message) -> None:
    flat = flatten(message)
    again = unflatten(blank(message), flat)
    assert same(flatten(again), flat)
    assert flatten(again).keys() == {leaf.name for leaf in leaves(message)}


@given(MESSAGES)
def test_bytes_are_the_sum_and_exposure_the_highest_of_the_leaves(message: Message) -> None:
    parts = list(leaves(message))
    assert nbytes(message) == sum(t.tensor.numel() * t.tensor.element_size() for t in parts)
    assert exposure(message) == max([leaf.reveals for leaf in parts], default=Reveals.WEIGHTS)


def test_bytes_and_exposure_by_hand() -> None:
    bank = Bank(torch.zeros(4, 8, dtype=torch.int8), torch.zeros(4, dtype=torch.int32))
    whole = Pair(Weights({"w": torch.zeros(5), "steps": torch.tensor(1)}), bank)
    assert nbytes(whole) == (5 * 4 + 8) + (32 + 4 * 4)
    assert exposure(whole) == Reveals.FEATURES
    assert exposure(whole.left) == Reveals.WEIGHTS
    assert flatten(whole).keys() == {"left/tensors/w", "left/tensors/steps", "right/rows", "right/born"}


def test_a_field_without_a_mark_is_refused() -> None:
    @dataclass(frozen=True)
    class Silent(Message):
        rows: Tensor

    with pytest.raises(TypeError, match=r"Silent\.rows must declare what it reveals"):
        flatten(Pair(Empty(), Silent(torch.zeros(1))))


def test_a_field_that_holds_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Bank\.born must hold tensors, found list"):
        nbytes(Bank(torch.zeros(1), [1]))  # type: ignore[arg-type]


def test_a_missing_tensor_is_named() -> None:
    like = Pair(Empty(), Bank(torch.zeros(1), torch.zeros(1)))
    with pytest.raises(InputError, match="Bank lacks 'right/born'"):
        unflatten(like, {"right/rows": torch.zeros(1)})


def test_weights_are_found_however_deep() -> None:
    held = {"w": torch.ones(2)}
    bank = Bank(torch.zeros(1), torch.zeros(1))
    assert weights_of(Pair(Pair(bank, Weights(held)), bank)) is held
    assert weights_of(Pair(Empty(), bank)) == {}


@pytest.mark.parametrize(("numbers", "finite"), [
    ([1.0, 2.0], True), ([1.0, torch.inf], False), ([torch.nan, 0.0], False), ([torch.inf, -torch.inf], False),
    ([3e38, 3e38], True), ([], True),
])  # fmt: skip
def test_finite_numbers_whose_sum_is_not_are_finite(numbers: list[float], finite: bool) -> None:
    assert is_finite(torch.tensor(numbers)) == finite
    assert is_finite(torch.tensor([1, 2]))
