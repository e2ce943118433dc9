"""Expected calibration error (ECE) and reliability diagram of a classifier.

ECE = sum over bins of n_b / n |accuracy_b - confidence_b| with 15 bins of equal width (Guo et al. 2017, arXiv
1706.04599): the fraction of a bin's predictions that are right, and their mean confidence. For findings it is the
fraction of images with the finding and the mean probability of the finding, over all pairs of image and finding.

A site does not send sums of confidences: in a bin with one image that would be a patient's score. It counts 5 fine bins
in each of the 15, and the centre of a fine bin stands for the confidences in it. The error of that is below 1/150.

There is no interval. Chance alone makes gaps, so the ECE of few images is too large, and where a gap is 0 it has no
derivative by the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedtune.evaluation.scores import Score

BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of one bin: their number, mean confidence, and the fraction that is right."""

    count: int
    confidence: float
    accuracy: float


def calibration_error(reliability: Int[Tensor, "2 f"]) -> dict[str, Score]:
    """The ECE in [0, 1]; 0 is best."""
    total, confidence, right = _binned(reliability)
    return {"ece": Score(float((confidence - right).abs().sum() / total.sum()), float("nan"), float("nan"))}


def reliability_diagram(reliability: Int[Tensor, "2 f"]) -> list[ReliabilityBin]:
    """The bins with predictions, in order of confidence."""
    rows = zip(*(part.tolist() for part in _binned(reliability)), strict=True)
    return [ReliabilityBin(int(n), confidence / n, right / n) for n, confidence, right in rows if n]


def _binned(reliability: Int[Tensor, "2 f"]) -> tuple[Float[Tensor, "b"], ...]:
    """In each bin: number of predictions, sum of their confidences, number of right ones."""
    fine = reliability.shape[-1]
    centres = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    total, right = reliability.sum(0).double(), reliability[1].double()
    return tuple(part.view(BINS, fine // BINS).sum(-1) for part in (total, total * centres, right))
