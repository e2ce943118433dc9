"""AUROC, balanced accuracy and F1 from counts that add up over sites.

Sums of counts give the pooled confusion matrix exactly, and the AUROC up to the width of the bins. Of two classes that
lie 1.5 deviations apart (AUROC 0.86) it is 0.0001 too low where the log-odds of a class deviate by 0.4 or more, 0.0004
at 0.14, 0.005 at 0.04 (a head that has hardly been trained). Bins are wider away from even odds: of a rare finding
whose log-odds lie about -3 it is 0.001 too low at a deviation of 1 and 0.006 at 0.4.
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


def measures(counts: Counts, grades: Sequence[int] = ()) -> dict[str, Float[Tensor, ""]]:
    """AUROC (one against the rest), balanced accuracy (mean recall) and F1, each a mean over the classes that occur.

    Of findings: AUROC, the mean of sensitivity and specificity, and F1 of its presence, each a mean over the findings,
    and `auroc_0`, `auroc_1` ... of each finding. With `grades` also kappa. NaN where a measure does not exist; all are
    functions of the counts that can be differentiated.
    """
    recall, f1 = (_balanced, _f1_of_findings) if counts.several else (_recall, _f1)
    auroc, defined = auroc_by_class(counts.histogram)
    found = {
        "auroc": over_classes(auroc, defined),
        "balanced_accuracy": over_classes(*recall(counts.confusion)),
        "f1": over_classes(*f1(counts.confusion)),
    }
    if counts.several:
        each = torch.where(defined, auroc, torch.nan).unbind()
        found |= {finding(k): value for k, value in enumerate(each)}
    return found | (kappas(counts.confusion, grades) if grades else {})


def finding(k: int) -> str:
    """The name of the AUROC of finding `k` among `measures`."""
    return f"auroc_{k}"


def auroc_by_class(histogram: Shaped[Tensor, "k 2 b"]) -> tuple[Float[Tensor, " k"], Bool[Tensor, " k"]]:
    """P(score of a positive > of a negative) + P(equal bins) / 2 (Mann & Whitney 1947), and where it is defined."""
    negative, positive = histogram.double().unbind(1)
    below = negative.cumsum(-1) - negative
    wins = (positive * (below + negative / 2)).sum(-1)
    pairs = positive.sum(-1) * negative.sum(-1)
    return wins / pairs.clamp_min(1), pairs > 0


def over_classes(values: Float[Tensor, " k"], defined: Bool[Tensor, " k"]) -> Float[Tensor, ""]:
    """Mean over the classes for which the score exists; NaN if there is none."""
    return torch.where(defined, values, 0.0).sum() / defined.sum()


def _recall(confusion: Shaped[Tensor, "*t k k"]) -> tuple[Tensor, Tensor]:
    hits, truth = confusion.diagonal(dim1=-2, dim2=-1).double(), confusion.sum(-1)
    return hits / truth.clamp_min(1), truth > 0


def _f1(confusion: Shaped[Tensor, "*t k k"]) -> tuple[Tensor, Tensor]:
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    seen = confusion.sum(-2) + confusion.sum(-1)
    return 2 * hits / seen.clamp_min(1), seen > 0


def _balanced(confusion: Shaped[Tensor, "k 2 2"]) -> tuple[Tensor, Tensor]:
    """Of the findings that some images have and others have not."""
    recall, seen = _recall(confusion)
    return recall.mean(-1), seen.all(-1)


def _f1_of_findings(confusion: Shaped[Tensor, "k 2 2"]) -> tuple[Tensor, Tensor]:
    f1, seen = _f1(confusion)
    return f1[..., 1], seen[..., 1]
