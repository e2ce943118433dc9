from __future__ import annotations

from math import ceil, isnan

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from fedtune.evaluation.calibration import GROUPS, Bin, calibration, diagram
from fedtune.evaluation.counts import FINE, cells, cells_of_findings

HALF = 1 / 150 + 1e-6
"""Of a fine bin, and rounding."""


def answers(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=draw)
    return 2 * torch.randn(n, 4, generator=draw) + torch.nn.functional.one_hot(labels, 4), labels


def counted(logits: Tensor, labels: Tensor) -> Tensor:
    return cells(logits, labels).count().reliability


def by_loops(logits: Tensor, labels: Tensor) -> float:
    """Guo et al.'s equation 3, bins ((m - 1) / M, m / M]."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().softmax(1), labels.tolist(), strict=True):
        sure = float(row.max())
        bins.setdefault(ceil(sure * 15), []).append((sure, int(row.argmax()) == label))
    gaps = [abs(sum(right for _, right in b) - sum(sure for sure, _ in b)) for b in bins.values()]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("n", [20, 500])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_error_is_that_of_the_loops_and_of_torchmetrics(n: int, scale: float) -> None:
    logits, labels = answers(n)
    found = calibration(counted(scale * logits, labels))["ece"].value
    assert found == pytest.approx(by_loops(scale * logits, labels), abs=HALF)
    theirs = multiclass_calibration_error((scale * logits).softmax(1), labels, 4, GROUPS).item()
    assert found == pytest.approx(theirs, abs=HALF)


def test_of_findings_it_is_that_of_all_pairs_of_image_and_finding() -> None:
    logits = torch.randn(80, 3)
    findings = (torch.rand(80, 3) < 0.3).long()
    found = cells_of_findings(logits, findings).count()
    theirs = binary_calibration_error(logits.sigmoid().flatten(), findings.flatten(), GROUPS).item()
    assert calibration(found.reliability)["ece"].value == pytest.approx(theirs, abs=HALF)


def test_by_hand() -> None:
    """Four guesses, 90 % sure, of which three are right: 0.15 too sure."""
    odds = torch.tensor([0.9]).logit()
    logits = torch.stack([torch.zeros(4), odds.expand(4)], 1)
    reliability = counted(logits, torch.tensor([1, 1, 1, 0]))
    assert calibration(reliability)["ece"].value == pytest.approx(0.15, abs=HALF)
    (one,) = diagram(reliability)
    assert (one.count, one.held) == (4, 0.75)
    assert one.sure == pytest.approx(0.9, abs=HALF)


def test_a_perfectly_sure_and_right_classifier_has_next_to_none() -> None:
    reliability = counted(100.0 * torch.eye(4), torch.arange(4))
    assert calibration(reliability)["ece"].value == pytest.approx(0, abs=HALF)
    assert diagram(reliability) == [Bin(4, (FINE - 0.5) / FINE, 1.0)]


def test_pooled_is_what_one_site_would_count() -> None:
    logits, labels = answers(90)
    parts = [counted(logits[at : at + 30], labels[at : at + 30]) for at in (0, 30, 60)]
    total = parts[0] + parts[1] + parts[2]
    assert torch.equal(total, counted(logits, labels))
    assert diagram(total) == diagram(counted(logits, labels))
    assert sum(b.count for b in diagram(total)) == 90


def test_it_has_no_interval_since_draws_are_further_off_than_the_site() -> None:
    logits, labels = answers(200)
    score = calibration(counted(logits, labels))["ece"]
    assert isnan(score.low)
    assert isnan(score.high)
    drawn = [torch.randint(200, (200,)) for _ in range(100)]
    assert sum(by_loops(logits[at], labels[at]) for at in drawn) / 100 > score.value
