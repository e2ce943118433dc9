from __future__ import annotations

from math import ceil, isnan

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from fedtune.evaluation.calibration import BINS, ReliabilityBin, calibration_error, reliability_diagram
from fedtune.evaluation.counts import CONFIDENCE_BINS, cell_indices, multilabel_cell_indices

HALF = 1 / 150 + 1e-6
"""Half of a fine bin, and rounding."""


def predictions(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=draw)
    return 2 * torch.randn(n, 4, generator=draw) + torch.nn.functional.one_hot(labels, 4), labels


def counted(logits: Tensor, labels: Tensor) -> Tensor:
    return cell_indices(logits, labels).count().reliability


def by_loops(logits: Tensor, labels: Tensor) -> float:
    """Guo et al.'s equation 3, bins ((m - 1) / M, m / M]."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().softmax(1), labels.tolist(), strict=True):
        confidence = float(row.max())
        bins.setdefault(ceil(confidence * 15), []).append((confidence, int(row.argmax()) == label))
    gaps = [abs(sum(right for _, right in b) - sum(confidence for confidence, _ in b)) for b in bins.values()]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("n", [20, 500])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_ece_equals_loops_and_torchmetrics(n: int, scale: float) -> None:
    logits, labels = predictions(n)
    found = calibration_error(counted(scale * logits, labels))["ece"].value
    assert found == pytest.approx(by_loops(scale * logits, labels), abs=HALF)
    theirs = multiclass_calibration_error((scale * logits).softmax(1), labels, 4, BINS).item()
    assert found == pytest.approx(theirs, abs=HALF)


def test_ece_of_findings_is_over_all_pairs_of_image_and_finding() -> None:
    logits = torch.randn(80, 3)
    findings = (torch.rand(80, 3) < 0.3).long()
    found = multilabel_cell_indices(logits, findings).count()
    theirs = binary_calibration_error(logits.sigmoid().flatten(), findings.flatten(), BINS).item()
    assert calibration_error(found.reliability)["ece"].value == pytest.approx(theirs, abs=HALF)


def test_by_hand() -> None:
    """Four predictions with confidence 0.9, of which three are right: an error of 0.15."""
    odds = torch.tensor([0.9]).logit()
    logits = torch.stack([torch.zeros(4), odds.expand(4)], 1)
    reliability = counted(logits, torch.tensor([1, 1, 1, 0]))
    assert calibration_error(reliability)["ece"].value == pytest.approx(0.15, abs=HALF)
    (one,) = reliability_diagram(reliability)
    assert (one.count, one.accuracy) == (4, 0.75)
    assert one.confidence == pytest.approx(0.9, abs=HALF)


def test_a_confident_and_right_classifier_has_nearly_no_ece() -> None:
    reliability = counted(100.0 * torch.eye(4), torch.arange(4))
    assert calibration_error(reliability)["ece"].value == pytest.approx(0, abs=HALF)
    assert reliability_diagram(reliability) == [ReliabilityBin(4, (CONFIDENCE_BINS - 0.5) / CONFIDENCE_BINS, 1.0)]


def test_pooled_counts_equal_those_of_one_site() -> None:
    logits, labels = predictions(90)
    parts = [counted(logits[at : at + 30], labels[at : at + 30]) for at in (0, 30, 60)]
    total = parts[0] + parts[1] + parts[2]
    assert torch.equal(total, counted(logits, labels))
    assert reliability_diagram(total) == reliability_diagram(counted(logits, labels))
    assert sum(b.count for b in reliability_diagram(total)) == 90


def test_ece_has_no_interval_because_bootstrap_draws_are_biased() -> None:
    logits, labels = predictions(200)
    score = calibration_error(counted(logits, labels))["ece"]
    assert isnan(score.low)
    assert isnan(score.high)
    draws = [torch.randint(200, (200,)) for _ in range(100)]
    assert sum(by_loops(logits[at], labels[at]) for at in draws) / 100 > score.value
