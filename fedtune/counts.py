"""Counts that add up over sites: what a site says of a classifier's answers to its test images.

A pooled score needs no patient's score to leave its site: a site sends how many of its images fell into each cell of a
confusion matrix and into each bin of a histogram. Sums of these are the counts of all images in one place. For the
intervals a site repeats its counts for random draws of its patients; the sums are a bootstrap stratified by site.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn.functional import one_hot

BINS = 1024
# Scores are binned by log-odds, since a confident model crowds its probabilities at 0 and 1. Even odds are the lower
# end of a bin, so that a finding is guessed in the upper half of the bins and in no other.
LOG_ODDS = 14.0
FINE = 300
"""Bins of a probability in [0, 1]; each of 15 in a reliability diagram holds 20."""


@dataclass(frozen=True)
class Counts:
    """Row 0 counts the site as it is; rows 1 to `draws` count bootstrap draws of its patients."""

    confusion: Int[Tensor, "r k *cells"]
    """Truth by guess, (r, k, k); of findings one matrix each, (r, k, 2, 2), absent before present."""
    histogram: Int[Tensor, "r k 2 b"]
    """For each class or finding: its score in images without it, and in images with it."""
    reliability: Int[Tensor, "2 f"]
    """Guesses that were wrong, and right, by their probability; of findings what was absent, and present. Of the site
    as it is alone: see `fedtune.calibration`."""

    @property
    def counted(self) -> int:
        """Images, or patients."""
        return int(self.histogram[0, 0].sum())

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.confusion + other.confusion, self.histogram + other.histogram, self.reliability + other.reliability
        )


def count(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, "n"], patients: Int[Tensor, "n"], draws: int, seed: int
) -> Counts:
    """Of images of one class each; patients are drawn with replacement, all images of a patient together."""
    k, times = logits.shape[1], multiplicities(patients, draws, seed)
    probability, guesses = logits.double().softmax(1), logits.argmax(1)
    confusion = tally(times, labels * k + guesses, k * k).view(-1, k, k)
    sure = probability.gather(1, guesses[:, None])
    right = (guesses == labels).long()[:, None]
    return Counts(
        confusion, _histogram(times, torch.logit(probability, eps=1e-12), one_hot(labels, k)),
        _reliability(sure, right),
    )  # fmt: skip


def count_findings(
    logits: Float[Tensor, "n k"], findings: Integer[Tensor, "n k"], patients: Int[Tensor, "n"], draws: int, seed: int
) -> Counts:
    """Of images that may have several findings; a finding is guessed where its odds are even or better."""
    times, truth, odds = multiplicities(patients, draws, seed), findings.long(), logits.double()
    histogram = _histogram(times, odds, truth)
    confusion = torch.stack([half.sum(-1) for half in histogram.split(BINS // 2, -1)], -1)
    return Counts(confusion, histogram, _reliability(odds.sigmoid(), truth))


def multiplicities(patients: Int[Tensor, "n"], draws: int, seed: int) -> Int[Tensor, "r n"]:
    """How often each image counts: once in row 0, as often as its patient was drawn in the others."""
    distinct, owner = patients.unique(return_inverse=True)
    m = len(distinct)
    drawn = (
        torch.randint(m, (draws, m), generator=torch.Generator().manual_seed(seed))
        if m
        else torch.zeros(draws, 0).long()
    )
    times = torch.zeros(draws, m, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
    return torch.cat([torch.ones(1, len(patients), dtype=torch.int64), times[:, owner]])


def tally(times: Int[Tensor, "r n"], cell: Int[Tensor, "n"], cells: int) -> Int[Tensor, "r cells"]:
    """How often each cell was met."""
    out = torch.zeros(len(times), cells, dtype=torch.int64)
    return out.scatter_add_(1, cell.expand(len(times), -1), times)


def _histogram(
    times: Int[Tensor, "r n"], odds: Float[Tensor, "n k"], truth: Int[Tensor, "n k"]
) -> Int[Tensor, "r k 2 b"]:
    bins = ((odds / LOG_ODDS + 1) / 2 * BINS).floor().clamp(0, BINS - 1).long()
    cells = (truth * BINS + bins).unbind(1)
    return torch.stack([tally(times, cell, 2 * BINS).view(-1, 2, BINS) for cell in cells], 1)


def _reliability(probability: Float[Tensor, "n m"], held: Int[Tensor, "n m"]) -> Int[Tensor, "2 f"]:
    """Bins are open below and closed above, as Guo et al. have them."""
    bins = ((probability * FINE).ceil() - 1).clamp(0, FINE - 1).long()
    return (held * FINE + bins).flatten().bincount(minlength=2 * FINE).view(2, FINE)
