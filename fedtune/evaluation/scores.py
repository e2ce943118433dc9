"""AUROC, balanced accuracy and F1 from counts that add up over sites.

Sums of counts are the exact pooled confusion matrix, and give the AUROC up to the width of the bins. For two classes
that lie 1.5 standard deviations apart (AUROC 0.86) it is 0.0001 too low where the log-odds of a class have a standard
deviation of 0.4 or more, 0.0004 at 0.14, 0.005 at 0.04 (a nearly untrained head). Bins are wider away from even odds:
for a rare finding with log-odds of about -3 it is 0.001 too low at a standard deviation of 1 and 0.006 at 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fedtune.evaluation.counts import Counts
from fedtune.evaluation.kappa import kappas


@dataclass(frozen=True)
class Score:
    """A value and the ends of its 95 % interval (`fedtune.evaluation.intervals`); NaN where one does not exist."""

    value: float
    low: float
    high: float


def compute_scores(counts: Counts, grades: Sequence[int] = ()) -> dict[str, Float[Tensor, ""]]:
    """AUROC (one against the rest), balanced accuracy (mean recall) and F1, each a mean over the classes that occur.

    For findings: AUROC, the mean of sensitivity and specificity, and F1 of presence, each a mean over the findings, and
    `auroc_0`, `auroc_1` ... of each finding. With `grades` also kappa. NaN where a score does not exist. All are
    differentiable functions of the counts.
    """
    recall, f1 = (_finding_recall, _finding_f1) if counts.multilabel else (_recall, _f1)
    auroc, defined = auroc_by_class(counts.histogram)
    found = {
        "auroc": mean_over_classes(auroc, defined),
        "balanced_accuracy": mean_over_classes(*recall(counts.confusion)),
        "f1": mean_over_classes(*f1(counts.confusion)),
    }
    if counts.multilabel:
        each = torch.where(defined, auroc, torch.nan).unbind()
        found |= {finding_auroc(k): value for k, value in enumerate(each)}
    return found | (kappas(counts.confusion, grades) if grades else {})


def finding_auroc(k: int) -> str:
    """The key of the AUROC of finding `k` in `compute_scores`."""
    return f"auroc_{k}"


def auroc_by_class(histogram: Shaped[Tensor, "k 2 b"]) -> tuple[Float[Tensor, " k"], Bool[Tensor, " k"]]:
    """P(score of a positive > of a negative) + P(equal bins) / 2 (Mann & Whitney 1947), and where it is defined."""
    negative, positive = histogram.double().unbind(1)
    below = negative.cumsum(-1) - negative
    wins = (positive * (below + negative / 2)).sum(-1)
    pairs = positive.sum(-1) * negative.sum(-1)
    return wins / pairs.clamp_min(1), pairs > 0


def mean_over_classes(values: Float[Tensor, " k"], defined: Bool[Tensor, " k"]) -> Float[Tensor, ""]:
    """Mean over the classes for which the score exists; NaN if there is none."""
    return torch.where(defined, values, 0.0).sum() / defined.sum()


def _recall(confusion: Shaped[Tensor, "*t k k"]) -> tuple[Tensor, Tensor]:
    hits, truth = confusion.diagonal(dim1=-2, dim2=-1).double(), confusion.sum(-1)
    return hits / truth.clamp_min(1), truth > 0


def _f1(confusion: Shaped[Tensor, "*t k k"]) -> tuple[Tensor, Tensor]:
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    total = confusion.sum(-2) + confusion.sum(-1)
    return 2 * hits / total.clamp_min(1), total > 0


def _finding_recall(confusion: Shaped[Tensor, "k 2 2"]) -> tuple[Tensor, Tensor]:
    """Mean of sensitivity and specificity, defined for findings that some images have and others have not."""
    recall, defined = _recall(confusion)
    return recall.mean(-1), defined.all(-1)


def _finding_f1(confusion: Shaped[Tensor, "k 2 2"]) -> tuple[Tensor, Tensor]:
    f1, defined = _f1(confusion)
    return f1[..., 1], defined[..., 1]
