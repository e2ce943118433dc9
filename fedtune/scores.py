"""AUROC, balanced accuracy and F1 with bootstrap intervals, from counts that add up over sites.

A pooled score needs no patient's score to leave its site: a site sends how many of its images fell
into each cell of a confusion matrix and into each bin of a histogram of scores. Sums of these give
the pooled confusion matrix exactly, and the AUROC up to the bins' width, 0.11 in log-odds: measured
0.002 too low where a class's log-odds deviate by 0.4, 0.02 at 0.14, and 0.1 at 0.04 (a head that has
hardly been trained). A single site's scores are exact. For the intervals a site repeats its counts for
random draws of its patients; the sums are a bootstrap stratified by site.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BINS = 1024
# Scores are binned by log-odds, since a confident model crowds its probabilities at 0 and 1.
LOG_ODDS = 14.0


@dataclass(frozen=True)
class Counts:
    """Row 0 counts the site as it is; rows 1 to `draws` count bootstrap draws of its patients."""

    confusion: Int[Tensor, "r k k"]
    """Truth by guess."""
    histogram: Int[Tensor, "r k 2 b"]
    """For each class: its score in images of other classes, and in images of it."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.confusion + other.confusion, self.histogram + other.histogram)


@dataclass(frozen=True)
class Score:
    value: float
    low: float
    """2.5 % of the bootstrap draws are below."""
    high: float
    """2.5 % are above."""


def count(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, "n"], patients: Int[Tensor, "n"], draws: int, seed: int
) -> Counts:
    """Counts of one site; patients are drawn with replacement, all images of a patient together."""
    k = logits.shape[1]
    weights = multiplicities(patients, draws, seed)
    cell = labels * k + logits.argmax(1)
    confusion = _tally(weights, cell, k * k).view(-1, k, k)
    probability = logits.double().softmax(1)
    odds = torch.logit(probability, eps=1e-12)
    bins = ((odds / LOG_ODDS + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    histogram = torch.stack(
        [_tally(weights, (labels == c).long() * BINS + bins[:, c], 2 * BINS).view(-1, 2, BINS) for c in range(k)],
        1,
    )
    return Counts(confusion, histogram)


def scores(counts: Counts) -> dict[str, Score]:
    """AUROC (one against the rest), balanced accuracy (mean recall) and F1, each a mean over the classes that occur."""
    return {
        "auroc": interval(_auroc(counts.histogram)),
        "balanced_accuracy": interval(_over_classes(*_recall(counts.confusion))),
        "f1": interval(_over_classes(*_f1(counts.confusion))),
    }


def exact(logits: Float[Tensor, "n k"], labels: Int[Tensor, "n"]) -> dict[str, float]:
    """The same three scores of one site by torchmetrics, without bins; NaN where no class has a score."""
    from torchmetrics.functional.classification import (
        multiclass_auroc,
        multiclass_f1_score,
        multiclass_recall,
    )

    k = logits.shape[1]
    guesses = logits.argmax(1)
    truth = torch.bincount(labels, minlength=k)
    seen = truth + torch.bincount(guesses, minlength=k)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (positive|negative) samples")  # those classes are left out
        auroc = multiclass_auroc(logits.softmax(1), labels, k, average=None)
    both = (truth > 0) & (truth < len(labels))
    parts = {
        "auroc": (auroc, both),
        "balanced_accuracy": (multiclass_recall(guesses, labels, k, average=None), truth > 0),
        "f1": (multiclass_f1_score(guesses, labels, k, average=None), seen > 0),
    }
    return {
        name: float(_over_classes(values[None].double(), defined[None])) for name, (values, defined) in parts.items()
    }


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


def _tally(weights: Int[Tensor, "r n"], cell: Int[Tensor, "n"], cells: int) -> Int[Tensor, "r cells"]:
    out = torch.zeros(len(weights), cells, dtype=torch.int64)
    return out.scatter_add_(1, cell.expand(len(weights), -1), weights)


def _auroc(histogram: Int[Tensor, "r k 2 b"]) -> Float[Tensor, "r"]:
    """P(score of a positive > of a negative) + P(equal bins) / 2 (Mann & Whitney 1947)."""
    negative, positive = histogram.double().unbind(2)
    below = negative.cumsum(-1) - negative
    wins = (positive * (below + negative / 2)).sum(-1)
    pairs = positive.sum(-1) * negative.sum(-1)
    return _over_classes(wins / pairs.clamp_min(1), pairs > 0)


def _recall(confusion: Int[Tensor, "r k k"]) -> tuple[Tensor, Tensor]:
    hits, truth = confusion.diagonal(dim1=1, dim2=2).double(), confusion.sum(2)
    return hits / truth.clamp_min(1), truth > 0


def _f1(confusion: Int[Tensor, "r k k"]) -> tuple[Tensor, Tensor]:
    hits = confusion.diagonal(dim1=1, dim2=2).double()
    seen = confusion.sum(1) + confusion.sum(2)
    return 2 * hits / seen.clamp_min(1), seen > 0


def _over_classes(values: Float[Tensor, "r k"], defined: Tensor) -> Float[Tensor, "r"]:
    """Mean over the classes for which the score exists; NaN if there is none."""
    total = torch.where(defined, values, torch.zeros((), dtype=values.dtype)).sum(1)
    return total / defined.sum(1)


def interval(values: Float[Tensor, "r"]) -> Score:
    draws = values[1:][~values[1:].isnan()]
    ends = torch.tensor([0.025, 0.975], dtype=values.dtype)
    low, high = draws.quantile(ends).tolist() if len(draws) else (float("nan"), float("nan"))
    return Score(float(values[0]), low, high)
