"""Counts that add up over sites: what a site sends of a classifier's answers to its test images.

A pooled score needs no patient's score to leave its site: a site sends how many of its images fell into each cell of a
confusion matrix and into each bin of a histogram. Sums of these are the counts of all images in one place. The server
makes intervals from the same counts (`fedtune.evaluation.intervals`); no bootstrap draw leaves a site, since draws
whose seed is known can be solved for every patient's score.

A histogram is still a list of scores, without names and as coarse as its bins. So a class of which a site has few
patients is withheld: its images are not counted. A cell off the diagonal may hold one image of many: it says that one
of at least `least` patients of a class was taken for another class, not which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from fedcore.messages.message import STATISTICS, Message

BINS = 128
WIDTH, REACH = 0.25, 16.0
"""Bins of log-odds s are even in asinh(s / WIDTH): 0.019 wide in the middle, 7 % of |s| further out, up to REACH. A
confident model crowds its probabilities at 0 and 1, a model that has hardly learned crowds them at chance."""
FINE = 75
"""Bins of a probability in [0, 1]; each of 15 in a reliability diagram holds 5."""


@dataclass(frozen=True)
class Counts(Message):
    """Of one site or several. Doubles where a score is differentiated by them (`fedtune.evaluation.intervals`)."""

    confusion: Shaped[Tensor, "k *cells"] = field(metadata=STATISTICS)
    """Truth by guess, (k, k); of findings one matrix each, (k, 2, 2), absent before present."""
    histogram: Shaped[Tensor, "k 2 b"] = field(metadata=STATISTICS)
    """For each class or finding: its score in images without it, and in images with it."""
    reliability: Int[Tensor, "2 f"] = field(metadata=STATISTICS)
    """Guesses that were wrong, and right, by their probability; of findings what was absent, and present."""

    @property
    def several(self) -> bool:
        """An image may have several findings."""
        return self.confusion.dim() == 3

    @property
    def images(self) -> int:
        """Images, or patients, that are counted in any table."""
        return int(self.histogram.sum((1, 2)).max())

    def tables(self) -> list[Shaped[Tensor, "_ _"]]:
        """In each table an image is counted once at most: one confusion matrix (of findings k), and k histograms."""
        matrices = len(self.confusion) if self.several else 1
        return [self.confusion.reshape(matrices, -1), self.histogram.flatten(1)]

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.confusion + other.confusion, self.histogram + other.histogram, self.reliability + other.reliability
        )


@dataclass(frozen=True)
class Cells:
    """The cell of each image in each table, -1 where it is not counted. It does not leave the site."""

    confusion: Int[Tensor, "n t"]
    histogram: Int[Tensor, "n k"]
    reliability: Int[Tensor, "n t"]
    several: bool

    def count(self) -> Counts:
        k = self.histogram.shape[1]
        confusion = _tally(self.confusion, 4 if self.several else k * k).view(k, *((2, 2) if self.several else (k,)))
        reliability = _tally(self.reliability, 2 * FINE).sum(0, dtype=torch.int32).view(2, FINE)
        return Counts(confusion, _tally(self.histogram, 2 * BINS).view(k, 2, BINS), reliability)


def cells(logits: Float[Tensor, "n k"], labels: Int[Tensor, "n"]) -> Cells:
    """Of images of one class each. The middle of the bins is chance, 1 / k."""
    k = logits.shape[1]
    probability, guesses = logits.double().softmax(1), logits.argmax(1)
    own = labels[:, None] == torch.arange(k)
    histogram = own * BINS + _bins(torch.logit(probability, eps=1e-12) + math.log(max(k - 1, 1)))
    right = (guesses == labels)[:, None]
    reliability = right * FINE + _fine(probability.gather(1, guesses[:, None]))
    return Cells((labels * k + guesses)[:, None], histogram, reliability, several=False)


def cells_of_findings(
    logits: Float[Tensor, "n k"], findings: Integer[Tensor, "n k"], withheld: Bool[Tensor, " k"] | None = None
) -> Cells:
    """Of images that may have several findings; a finding is guessed where its odds are even or better.

    Args:
        logits: Of each finding.
        findings: 1 where an image has it.
        withheld: Findings that are not counted; None: all are.
    """
    odds, truth = logits.double(), findings.long()
    parts = truth * 2 + (odds >= 0), truth * BINS + _bins(odds), truth * FINE + _fine(odds.sigmoid())
    hidden = torch.zeros(odds.shape[1], dtype=torch.bool) if withheld is None else withheld
    confusion, histogram, reliability = (part.masked_fill(hidden, -1) for part in parts)
    return Cells(confusion, histogram, reliability, several=True)


def withheld(
    truth: Integer[Tensor, "n *several"], patients: Int[Tensor, " n"], k: int, least: int
) -> Bool[Tensor, " k"]:
    """The classes of which a site has patients, but fewer than `least`.

    Of findings: also those that fewer than `least` patients do not have.
    """
    present = truth > 0 if truth.dim() == 2 else truth[:, None] == torch.arange(k)
    sides = [present, ~present] if truth.dim() == 2 else [present]
    few = torch.zeros(k, dtype=torch.bool)
    for side in sides:
        of = torch.tensor([len(patients[column].unique()) for column in side.unbind(1)])
        few |= (of > 0) & (of < least)
    return few


def _tally(cell: Int[Tensor, "n t"], size: int) -> Int[Tensor, "t size"]:
    """How often each cell was met, a row a table."""
    return torch.stack([(column + 1).bincount(minlength=size + 1)[1:] for column in cell.unbind(1)]).int()


def _bins(odds: Float[Tensor, "n k"]) -> Int[Tensor, "n k"]:
    """0 is the lower end of a bin, so that log-odds below 0 are in the lower half of the bins."""
    place = torch.asinh(odds / WIDTH) / math.asinh(REACH / WIDTH)
    return ((place + 1) / 2 * BINS).floor().clamp(0, BINS - 1).long()


def _fine(probability: Float[Tensor, "n m"]) -> Int[Tensor, "n m"]:
    """Bins are open below and closed above, as Guo et al. have them."""
    return ((probability * FINE).ceil() - 1).clamp(0, FINE - 1).long()
