from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.messages.message import flatten
from fedgen.oneshot.teacher_accuracy import TeacherAccuracy, print_accuracy
from tests.fedcore.federating import same


def test_a_hand_sized_case() -> None:
    logits = torch.log(torch.tensor([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]))
    by_class = TeacherAccuracy.of(logits, torch.tensor([0, 1, 0])).by_class(["cat", "dog", "hen"])
    assert by_class == {
        "cat": {"images": 2, "correct": 1, "probability": round((0.6 + 0.25) / 2, 4)},
        "dog": {"images": 1, "correct": 1, "probability": 0.5},
    }


def test_sums_equal_those_of_loops() -> None:
    logits, labels = torch.randn(20, 4), torch.randint(4, (20,))
    found = TeacherAccuracy.of(logits, labels)
    for k in range(4):
        own = [row.tolist() for row, label in zip(logits, labels.tolist(), strict=True) if label == k]
        assert float(found.images[k]) == len(own)
        assert float(found.correct[k]) == sum(max(row) == row[k] for row in own)
        given = sum(math.exp(row[k]) / sum(map(math.exp, row)) for row in own)
        assert float(found.probability[k]) == pytest.approx(given)


@given(st.integers(1, 9), st.integers(0, 99))
def test_batches_add_up_to_the_whole_in_any_order(size: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(10, 3, generator=random), torch.randint(3, (10,), generator=random)
    total, order = TeacherAccuracy.zero(3), torch.randperm(10, generator=random)
    for at in order.split(size):
        total = total + TeacherAccuracy.of(logits[at], labels[at])
    whole = TeacherAccuracy.of(logits, labels)
    for name, t in flatten(whole).items():
        torch.testing.assert_close(flatten(total)[name], t)
    assert same(flatten(TeacherAccuracy.zero(3) + whole), flatten(whole))


def test_the_terminal_has_one_line_per_class(capsys: pytest.CaptureFixture[str]) -> None:
    print_accuracy(TeacherAccuracy.of(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).by_class(["cat", "dog"]))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["class", "images", "correct", "probability"],
        ["dog", "1", "0", "0.500"],
    ]
