from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.messages.message import flatten
from fedgen.oneshot.teacher_accuracy import Recognition, show
from tests.fedcore.toys import same


def test_a_hand_sized_case() -> None:
    logits = torch.log(torch.tensor([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]))
    told = Recognition.of(logits, torch.tensor([0, 1, 0])).told(["cat", "dog", "hen"])
    assert told == {
        "cat": {"images": 2, "recognised": 1, "probability": round((0.6 + 0.25) / 2, 4)},
        "dog": {"images": 1, "recognised": 1, "probability": 0.5},
    }


def test_sums_are_those_of_loops() -> None:
    logits, labels = torch.randn(20, 4), torch.randint(4, (20,))
    found = Recognition.of(logits, labels)
    for k in range(4):
        own = [row.tolist() for row, label in zip(logits, labels.tolist(), strict=True) if label == k]
        assert float(found.images[k]) == len(own)
        assert float(found.recognised[k]) == sum(max(row) == row[k] for row in own)
        given = sum(math.exp(row[k]) / sum(map(math.exp, row)) for row in own)
        assert float(found.probability[k]) == pytest.approx(given)


@given(st.integers(1, 9), st.integers(0, 99))
def test_batches_add_up_to_the_whole_in_any_order(size: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(10, 3, generator=random), torch.randint(3, (10,), generator=random)
    total, order = Recognition.none(3), torch.randperm(10, generator=random)
    for at in order.split(size):
        total = total + Recognition.of(logits[at], labels[at])
    whole = Recognition.of(logits, labels)
    for name, t in flatten(whole).items():
        torch.testing.assert_close(flatten(total)[name], t)
    assert same(flatten(Recognition.none(3) + whole), flatten(whole))


def test_the_terminal_has_a_line_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    show(Recognition.of(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).told(["cat", "dog"]))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["class", "images", "recognised", "probability"],
        ["dog", "1", "0", "0.500"],
    ]
