from __future__ import annotations

from itertools import product
from math import isnan

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional.classification import multiclass_auroc, multiclass_f1_score, multiclass_recall

from fedcore.messages.message import flatten
from fedtune.evaluation.counts import Counts, cell_indices
from fedtune.evaluation.scores import compute_scores
from tests.fedcore.federating import same


def predictions(n: int, k: int = 4, skill: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that correlate with the truth by `skill`, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    return torch.randn(n, k, generator=generator) + skill * one_hot(labels, k), labels


def counted(logits: Tensor, labels: Tensor) -> Counts:
    return cell_indices(logits, labels).count()


def values(counts: Counts) -> dict[str, float]:
    return {name: float(value) for name, value in compute_scores(counts).items()}


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
def test_scores_from_counts_equal_torchmetrics(n: int, k: int, skill: float) -> None:
    logits, labels = predictions(n, k, skill)
    scores = values(counted(logits, labels))
    recall = multiclass_recall(logits.argmax(1), labels, k, average="macro").item()
    f1 = multiclass_f1_score(logits.argmax(1), labels, k, average="macro").item()
    auroc = multiclass_auroc(logits.softmax(1), labels, k, average="macro").item()
    assert scores["balanced_accuracy"] == pytest.approx(recall, abs=1e-6)
    assert scores["f1"] == pytest.approx(f1, abs=1e-6)
    assert scores["auroc"] == pytest.approx(auroc, abs=0.005)
    assert auroc == pytest.approx(auroc_by_loops(logits, labels), abs=1e-5)


@pytest.mark.parametrize(("deviation", "error"), [(0.04, 6e-3), (0.14, 8e-4), (0.4, 3e-4), (3.0, 3e-4)])
def test_the_error_of_bins_is_as_documented(deviation: float, error: float) -> None:
    """Two classes 1.5 standard deviations apart; log-odds from those of a nearly untrained head to a confident one."""
    labels = torch.arange(100000) % 2
    odds = (torch.randn(100000) + 1.5 * (labels - 0.5)) * deviation
    logits = torch.stack([-odds / 2, odds / 2], 1)
    rank = torch.empty(100000, dtype=torch.float64).index_copy_(0, odds.argsort(), torch.arange(1.0, 100001).double())
    exact = (rank[labels == 1].sum() - 50000 * 50001 / 2) / 50000**2
    assert -error < values(counted(logits, labels))["auroc"] - float(exact) <= 1e-4


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_binned_auroc_is_close_to_loops_for_any_confidence(scale: float) -> None:
    logits, labels = predictions(150, 3, skill=1.5, seed=3)
    value = values(counted(scale * logits, labels))["auroc"]
    assert value == pytest.approx(auroc_by_loops(scale * logits, labels), abs=0.005)


def test_by_hand() -> None:
    """Truth 0 0 1 1, predictions 0 1 1 1: recalls 1/2 and 1, F1 of 2/3 and 4/5, 4 of 4 pairs in order."""
    logits = torch.tensor([[3.0, 0.0], [0.0, 0.5], [0.0, 1.0], [0.0, 2.0]])
    scores = values(counted(logits, torch.tensor([0, 0, 1, 1])))
    assert scores["balanced_accuracy"] == pytest.approx(0.75)
    assert scores["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["auroc"] == pytest.approx(1.0)


def test_counts_of_sites_add_up_to_those_of_all() -> None:
    logits, labels = predictions(120)
    parts = [counted(logits[i : i + 40], labels[i : i + 40]) for i in (0, 40, 80)]
    total, whole = parts[0] + parts[1] + parts[2], counted(logits, labels)
    assert same(flatten(total), flatten(whole))


def test_classes_that_a_site_lacks_are_left_out_of_its_means() -> None:
    logits, labels = predictions(100, k=3)
    kept = labels < 2
    logits, labels = logits[kept], labels[kept]
    scores = values(counted(logits, labels))
    recalls = [float((logits[labels == c].argmax(1) == c).float().mean()) for c in (0, 1)]
    assert scores["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert scores["auroc"] == pytest.approx(auroc_by_loops(logits, labels), abs=0.005)
    # Class 2 is guessed, wrongly: its F1 of 0 counts, as in the pooled matrix.
    assert (logits.argmax(1) == 2).any()
    f1 = multiclass_f1_score(logits.argmax(1), labels, 3, average=None)
    assert scores["f1"] == pytest.approx(float(f1.mean()), abs=1e-6)


def test_a_single_class_has_no_auroc() -> None:
    assert isnan(values(counted(torch.randn(10, 2), torch.zeros(10, dtype=torch.int64)))["auroc"])


def test_counts_do_not_depend_on_the_order_of_images() -> None:
    logits, labels = predictions(50)
    order = torch.randperm(50)
    assert same(flatten(counted(logits, labels)), flatten(counted(logits[order], labels[order])))
