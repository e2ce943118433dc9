from __future__ import annotations

from itertools import product
from math import isnan, nan

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional.classification import multiclass_auroc, multiclass_f1_score, multiclass_recall

from fedtune.counts import Counts, count
from fedtune.scores import Score, exact, scores


def answers(n: int, k: int = 4, skill: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that lean to the truth by `skill`, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    return torch.randn(n, k, generator=generator) + skill * one_hot(labels, k), labels


def counted(logits: Tensor, labels: Tensor, draws: int = 0, seed: int = 0, patients: Tensor | None = None) -> Counts:
    return count(logits, labels, torch.arange(len(labels)) if patients is None else patients, draws, seed)


def auroc_by_loops(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the part of pairs that are in order; a tie is half."""
    values = []
    for c in range(logits.shape[1]):
        probability = logits.double().softmax(1)[:, c].tolist()
        of, rest = (
            [p for p, l in zip(probability, labels.tolist(), strict=True) if (l == c) == own] for own in (True, False)
        )
        if of and rest:
            values.append(sum((p > q) + (p == q) / 2 for p, q in product(of, rest)) / (len(of) * len(rest)))
    return sum(values) / len(values)


@pytest.mark.parametrize(("n", "k", "skill"), [(200, 4, 1.0), (90, 2, 0.0), (150, 3, 8.0), (60, 5, 2.0)])
def test_from_counts_and_exactly_the_scores_are_those_of_torchmetrics(n: int, k: int, skill: float) -> None:
    logits, labels = answers(n, k, skill)
    told, ours = scores(counted(logits, labels)), exact(logits, labels)
    recall = multiclass_recall(logits.argmax(1), labels, k, average="macro").item()
    f1 = multiclass_f1_score(logits.argmax(1), labels, k, average="macro").item()
    auroc = multiclass_auroc(logits.softmax(1), labels, k, average="macro").item()
    assert told["balanced_accuracy"].value == pytest.approx(recall, abs=1e-6)
    assert told["f1"].value == pytest.approx(f1, abs=1e-6)
    assert told["auroc"].value == pytest.approx(auroc, abs=0.005)
    assert ours == pytest.approx({"auroc": auroc, "balanced_accuracy": recall, "f1": f1}, abs=1e-6)
    assert ours["auroc"] == pytest.approx(auroc_by_loops(logits, labels), abs=1e-5)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_binned_auroc_is_near_the_loops_for_shy_and_for_confident_models(scale: float) -> None:
    logits, labels = answers(150, 3, skill=1.5, seed=3)
    value = scores(counted(scale * logits, labels))["auroc"].value
    assert value == pytest.approx(auroc_by_loops(scale * logits, labels), abs=0.005)


def test_by_hand() -> None:
    """Truth 0 0 1 1, guesses 0 1 1 1: recalls 1/2 and 1, F1 of 2/3 and 4/5, 4 of 4 pairs in order."""
    logits = torch.tensor([[3.0, 0.0], [0.0, 0.5], [0.0, 1.0], [0.0, 2.0]])
    told = scores(counted(logits, torch.tensor([0, 0, 1, 1])))
    assert told["balanced_accuracy"].value == pytest.approx(0.75)
    assert told["f1"].value == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert told["auroc"].value == pytest.approx(1.0)


def test_counts_of_sites_add_up_to_those_of_all() -> None:
    logits, labels = answers(120)
    parts = [counted(logits[i : i + 40], labels[i : i + 40], draws=5) for i in (0, 40, 80)]
    total, whole = parts[0] + parts[1] + parts[2], counted(logits, labels)
    assert torch.equal(total.confusion[0], whole.confusion[0])
    assert torch.equal(total.histogram[0], whole.histogram[0])
    assert all(int(row.sum()) == 120 for row in total.confusion)  # a draw has as many patients, here images
    again = scores(whole)
    assert {k: s.value for k, s in scores(total).items()} == {k: s.value for k, s in again.items()}


def test_draws_equal_a_loop_over_patients_all_images_of_one_together() -> None:
    """Image i has class and guess of its own cell, so a confusion matrix tells how often each was drawn."""
    patients = torch.tensor([5, 5, 5, 8, 8, 2])
    labels = torch.arange(6)
    logits = 9.0 * torch.eye(6)
    drawn = counted(logits, labels, draws=50, patients=patients).confusion.diagonal(dim1=1, dim2=2)
    assert drawn[0].tolist() == [1] * 6
    for row in drawn[1:].tolist():
        assert len(set(row[:3])) == len(set(row[3:5])) == 1
        assert row[0] + row[3] + row[5] == 3  # as many patients as there are
    assert len({tuple(row) for row in drawn[1:].tolist()}) > 5


def test_each_patient_is_drawn_as_often_as_any_other() -> None:
    drawn = counted(9.0 * torch.eye(8), torch.arange(8), draws=4000).confusion.diagonal(dim1=1, dim2=2)[1:]
    torch.testing.assert_close(drawn.double().mean(0), torch.ones(8, dtype=torch.float64), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.double().var(0), torch.full((8,), 7 / 8, dtype=torch.float64), atol=0.1, rtol=0)


def test_the_seed_decides_the_draws() -> None:
    logits, labels = answers(30)
    first = counted(logits, labels, draws=10, seed=1)
    assert torch.equal(counted(logits, labels, draws=10, seed=1).confusion, first.confusion)
    assert not torch.equal(counted(logits, labels, draws=10, seed=2).confusion, first.confusion)


def test_the_interval_of_a_perfect_classifier_is_a_point() -> None:
    labels = torch.arange(40) % 4
    assert all(
        s == Score(1.0, 1.0, 1.0) for s in scores(counted(20.0 * one_hot(labels, 4), labels, draws=100)).values()
    )


def test_the_interval_holds_the_value_and_narrows_with_patients() -> None:
    def interval(n: int) -> Score:
        return scores(counted(*answers(n, skill=1.0), draws=300))["balanced_accuracy"]

    few, many = interval(50), interval(800)
    assert few.low < few.value < few.high
    assert many.low < many.value < many.high
    assert 2.5 < (few.high - few.low) / (many.high - many.low) < 6  # the root of 16 is 4


def test_many_images_of_a_patient_do_not_narrow_the_interval() -> None:
    logits, labels = answers(60)
    once = scores(counted(logits, labels, draws=200))["f1"]
    patients = torch.arange(60).repeat_interleave(5)
    five = scores(counted(logits.repeat_interleave(5, 0), labels.repeat_interleave(5), 200, patients=patients))["f1"]
    assert (five.value, five.low, five.high) == pytest.approx((once.value, once.low, once.high))


def test_classes_that_a_site_lacks_are_left_out_of_its_means() -> None:
    logits, labels = answers(100, k=3)
    kept = labels < 2
    logits, labels = logits[kept], labels[kept]
    told, ours = scores(counted(logits, labels)), exact(logits, labels)
    recalls = [float((logits[labels == c].argmax(1) == c).float().mean()) for c in (0, 1)]
    assert told["balanced_accuracy"].value == pytest.approx(sum(recalls) / 2)
    assert told["auroc"].value == pytest.approx(auroc_by_loops(logits, labels), abs=0.005)
    assert ours["balanced_accuracy"] == pytest.approx(sum(recalls) / 2, abs=1e-6)
    assert ours["auroc"] == pytest.approx(auroc_by_loops(logits, labels), abs=1e-5)
    # Class 2 is guessed, wrongly: its F1 of 0 counts, as in the pooled matrix.
    assert (logits.argmax(1) == 2).any()
    assert ours["f1"] == pytest.approx(told["f1"].value, abs=1e-6)


def test_one_class_alone_has_no_auroc() -> None:
    logits, labels = torch.randn(10, 2), torch.zeros(10, dtype=torch.int64)
    told = scores(counted(logits, labels, draws=20))["auroc"]
    assert isnan(told.value)
    assert isnan(told.low)
    assert isnan(told.high)
    assert exact(logits, labels)["auroc"] == pytest.approx(nan, nan_ok=True)
    assert exact(logits, labels)["balanced_accuracy"] == pytest.approx((logits.argmax(1) == 0).float().mean().item())


def test_draws_without_a_score_are_left_out_of_the_interval() -> None:
    """Two patients of two classes: half of the draws hold one class alone and have no AUROC."""
    told = scores(counted(9.0 * torch.eye(2), torch.arange(2), draws=100))["auroc"]
    assert told == Score(1.0, 1.0, 1.0)


def test_counts_know_no_order_of_images() -> None:
    logits, labels = answers(50)
    order = torch.randperm(50)
    first, turned = counted(logits, labels), counted(logits[order], labels[order])
    assert torch.equal(first.confusion, turned.confusion)
    assert torch.equal(first.histogram, turned.histogram)
