"""Whether a classifier's probabilities can be believed: the expected calibration error and its reliability diagram.

ECE = sum over bins of n_b / n |right_b - sure_b| with 15 bins of equal width (Guo et al. 2017, arXiv 1706.04599): what
share of a bin's guesses was right, and how sure they were on average. Of findings it is the share of images with the
finding against the probability of it, over all pairs of an image and a finding.

A site tells no sum of probabilities, which of a bin with one image would be a patient's score: 5 fine bins to each of
the 15 are counted, and their centres stand for what is in them. That errs by less than 1/150.

There is no interval. Chance alone makes gaps, so the error of few images is too large, and where a gap is 0 it has no
derivative by the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedtune.evaluation.scores import Score

GROUPS = 15


@dataclass(frozen=True)
class Bin:
    """Guesses of a bin: how many, how sure they were on average, what share of them held."""

    count: int
    sure: float
    held: float


def calibration(reliability: Int[Tensor, "2 f"]) -> dict[str, Score]:
    """The error in [0, 1]; 0 is best."""
    total, sure, held = _grouped(reliability)
    return {"ece": Score(float((sure - held).abs().sum() / total.sum()), float("nan"), float("nan"))}


def diagram(reliability: Int[Tensor, "2 f"]) -> list[Bin]:
    """The bins that hold anything, from the least sure to the surest."""
    rows = zip(*(part.tolist() for part in _grouped(reliability)), strict=True)
    return [Bin(int(n), sure / n, held / n) for n, sure, held in rows if n]


def _grouped(reliability: Int[Tensor, "2 f"]) -> tuple[Float[Tensor, "g"], ...]:
    """In each bin: guesses, the sum of their probabilities, and how many held."""
    fine = reliability.shape[-1]
    centres = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    total, held = reliability.sum(0).double(), reliability[1].double()
    return tuple(part.view(GROUPS, fine // GROUPS).sum(-1) for part in (total, total * centres, held))
