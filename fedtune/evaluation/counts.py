"""Counts of a classifier's predictions on a site's test images; counts of sites add up.

A pooled score needs no patient's score from any site: a site sends the number of its images in each cell of a confusion
matrix and in each bin of a histogram. Sums of these are the counts of all images together. The server computes
intervals from the same counts (`fedtune.evaluation.intervals`). No site sends bootstrap draws: with a known seed they
can be solved for every patient's score.

A histogram is still a list of scores, without names and as coarse as its bins. So the images of a class are not counted
at a site with few patients of it: the class is withheld. A cell off the diagonal may hold a single image: it says that
one of at least `min_patients` patients of a class was predicted as another class, not which one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from fedcore.messages.message import Message
from fedcore.messages.reveals import STATISTICS

SCORE_BINS = 128
WIDTH, REACH = 0.25, 16.0
"""Bins of log-odds s are even in asinh(s / WIDTH): 0.019 wide in the middle, 7 % of |s| further out, up to REACH. The
probabilities of a confident model lie close to 0 and 1, those of an untrained one close to chance."""
CONFIDENCE_BINS = 75
"""Bins of a probability in [0, 1]; each of the 15 bins of a reliability diagram has 5 of them."""


@dataclass(frozen=True)
class Counts(Message):
    """Counts of one site or of several. Doubles where a score is differentiated (`fedtune.evaluation.intervals`)."""

    confusion: Shaped[Tensor, "k *cells"] = field(metadata=STATISTICS)
    """Truth by prediction, (k, k); for findings one matrix each, (k, 2, 2), absent before present."""
    histogram: Shaped[Tensor, "k 2 b"] = field(metadata=STATISTICS)
    """For each class or finding: its score in images without it, and in images with it."""
    reliability: Int[Tensor, "2 f"] = field(metadata=STATISTICS)
    """Wrong and right predictions by their probability; for findings the absent and the present ones."""

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.confusion.dim() == 3

    @property
    def images(self) -> int:
        """Images, or patients, that are counted in any table."""
        return int(self.histogram.sum((1, 2)).max())

    def tables(self) -> list[Shaped[Tensor, "_ _"]]:
        """Tables that count an image at most once: one confusion matrix (for findings k), and k histograms."""
        matrices = len(self.confusion) if self.multilabel else 1
        return [self.confusion.reshape(matrices, -1), self.histogram.flatten(1)]

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.confusion + other.confusion, self.histogram + other.histogram, self.reliability + other.reliability
        )


@dataclass(frozen=True)
class CellIndices:
    """The cell of each image in each table, -1 where it is not counted. They stay at the site."""

    confusion: Int[Tensor, "n t"]
    histogram: Int[Tensor, "n k"]
    reliability: Int[Tensor, "n t"]
    multilabel: bool

    def count(self) -> Counts:
        k = self.histogram.shape[1]
        confusion = _bincount(self.confusion, 4 if self.multilabel else k * k)
        reliability = _bincount(self.reliability, 2 * CONFIDENCE_BINS).sum(0, dtype=torch.int32)
        return Counts(
            confusion.view(k, *((2, 2) if self.multilabel else (k,))),
            _bincount(self.histogram, 2 * SCORE_BINS).view(k, 2, SCORE_BINS),
            reliability.view(2, CONFIDENCE_BINS),
        )


def cell_indices(logits: Float[Tensor, "n k"], labels: Int[Tensor, "n"]) -> CellIndices:
    """For images of one class each. The middle of the score bins is chance, 1 / k."""
    k = logits.shape[1]
    probability, predictions = logits.double().softmax(1), logits.argmax(1)
    positive = labels[:, None] == torch.arange(k)
    histogram = positive * SCORE_BINS + _score_bin(torch.logit(probability, eps=1e-12) + math.log(max(k - 1, 1)))
    right = (predictions == labels)[:, None]
    reliability = right * CONFIDENCE_BINS + _confidence_bin(probability.gather(1, predictions[:, None]))
    return CellIndices((labels * k + predictions)[:, None], histogram, reliability, multilabel=False)


def multilabel_cell_indices(
    logits: Float[Tensor, "n k"], findings: Integer[Tensor, "n k"], withheld: Bool[Tensor, " k"] | None = None
) -> CellIndices:
    """For images with several findings; a finding is predicted where its probability is at least 0.5.

    Args:
        logits: Of each finding.
        findings: 1 where an image has it.
        withheld: Findings that are not counted; None: none.
    """
    odds, truth = logits.double(), findings.long()
    tables = (
        truth * 2 + (odds >= 0),
        truth * SCORE_BINS + _score_bin(odds),
        truth * CONFIDENCE_BINS + _confidence_bin(odds.sigmoid()),
    )
    hidden = torch.zeros(odds.shape[1], dtype=torch.bool) if withheld is None else withheld
    confusion, histogram, reliability = (table.masked_fill(hidden, -1) for table in tables)
    return CellIndices(confusion, histogram, reliability, multilabel=True)


def withheld_classes(
    truth: Integer[Tensor, "n *findings"], patients: Int[Tensor, " n"], k: int, min_patients: int
) -> Bool[Tensor, " k"]:
    """The classes with patients at a site, but fewer than `min_patients`.

    For findings also those that fewer than `min_patients` patients do not have.
    """
    present = truth > 0 if truth.dim() == 2 else truth[:, None] == torch.arange(k)
    groups = [present, ~present] if truth.dim() == 2 else [present]
    withheld = torch.zeros(k, dtype=torch.bool)
    for group in groups:
        counts = torch.tensor([len(patients[column].unique()) for column in group.unbind(1)])
        withheld |= (counts > 0) & (counts < min_patients)
    return withheld


def _bincount(cells: Int[Tensor, "n t"], size: int) -> Int[Tensor, "t size"]:
    """Images in each cell, one row per table."""
    return torch.stack([(column + 1).bincount(minlength=size + 1)[1:] for column in cells.unbind(1)]).int()


def _score_bin(odds: Float[Tensor, "n k"]) -> Int[Tensor, "n k"]:
    """0 is the lower end of a bin, so log-odds below 0 are in the lower half of the bins."""
    place = torch.asinh(odds / WIDTH) / math.asinh(REACH / WIDTH)
    return ((place + 1) / 2 * SCORE_BINS).floor().clamp(0, SCORE_BINS - 1).long()


def _confidence_bin(probability: Float[Tensor, "n m"]) -> Int[Tensor, "n m"]:
    """Bins are open below and closed above, as in Guo et al."""
    return ((probability * CONFIDENCE_BINS).ceil() - 1).clamp(0, CONFIDENCE_BINS - 1).long()
