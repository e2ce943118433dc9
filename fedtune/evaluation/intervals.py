"""95 % intervals of scores from what sites send, without draws.

A score is a smooth function of the counts. Its derivative by the cell of an image is the image's influence, and the
sum of squared influences is the variance of the score (infinitesimal jackknife, Jaeckel 1972; Efron 1982). The images
of a patient err alike, so influences are added by patient before they are squared.

The server knows the counts of each table alone, not which image lies in which cells of several tables, nor whose it
is. It adds the deviations of the tables as if all erred together, the most that they can. What that misses, the site
knows, and sends one number a score: the variance by patients over the server's (a design effect, Kish 1965). Our
reading: the pooled score has the derivative of all counts together, and each site its own design effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedtune.evaluation.counts import Cells, Counts
from fedtune.evaluation.scores import Score, measures

Slopes = tuple[Float[Tensor, "_ _"], ...]
"""The derivative of a score by the cells of each of `Counts.tables`."""


def slopes(counts: Counts, grades: Sequence[int] = ()) -> dict[str, tuple[float, Slopes]]:
    """Each of `measures`: its value, and its derivatives by the counts."""
    with torch.enable_grad():
        confusion, histogram = (part.double().requires_grad_() for part in (counts.confusion, counts.histogram))
        found = {}
        for name, value in measures(Counts(confusion, histogram, counts.reliability), grades).items():
            by = torch.autograd.grad(value, (confusion, histogram), retain_graph=True, materialize_grads=True)
            found[name] = value.item(), tuple(Counts(by[0], by[1], counts.reliability).tables())
    return found


def bound(counts: Counts, by_cell: Slopes) -> float:
    """The variance of a score by one site's images, if tables err together and every image is a patient's only one."""
    deviations = 0.0
    for table, slope in zip(counts.tables(), by_cell, strict=True):
        n, weighted = table.sum(1).double(), table * slope
        squares = (weighted * slope).sum(1) - weighted.sum(1) ** 2 / n.clamp_min(1)
        deviations += float((squares.clamp_min(0) * n / (n - 1).clamp_min(1)).sqrt().sum())
    return deviations**2


def by_patients(cells: Cells, patients: Int[Tensor, " n"], by_cell: Slopes) -> float:
    """The variance of a score by one site's patients, of whom at least two are there."""
    influence = torch.zeros(len(patients), dtype=torch.float64)
    for cell, slope in zip((cells.confusion, cells.histogram), by_cell, strict=True):
        met = slope.gather(1, cell.T.clamp_min(0))
        influence += torch.where(cell.T < 0, 0.0, met).sum(0)
    distinct, owner = patients.unique(return_inverse=True)
    m = len(distinct)
    return float(torch.zeros(m, dtype=torch.float64).index_add_(0, owner, influence).var() * m)


def design_effects(cells: Cells, patients: Int[Tensor, " n"], grades: Sequence[int] = ()) -> list[float]:
    """Of each of `measures`, in their order, to two digits, so that it tells little of any patient.

    Where the site's own score does not exist or does not vary it is that of patients whose images are all alike: 1 for
    one image each.
    """
    counts = cells.count()
    alike = _alike(patients)
    found = []
    for value, by_cell in slopes(counts, grades).values():
        least = 0.0 if math.isnan(value) else bound(counts, by_cell)
        known = least > 1e-12 and len(patients.unique()) > 1
        found.append(max(two_digits(by_patients(cells, patients, by_cell) / least if known else alike), 0.01))
    return found


def proportion(value: float, variance: float, answers: float, patients: int, least: float = 0.0) -> Score:
    """The interval of a score in [least, 1] by Wilson's rule (1927), of as many tosses of a coin as have its variance
    (Korn & Graubard 1998), with Student's quantile in place of the normal one.

    Tosses are `answers` at most, images over their design effect: a score without a miss has an interval too.
    """
    if math.isnan(value):
        return Score(math.nan, math.nan, math.nan)
    scale = 1 - least
    x, v = (value - least) / scale, variance / scale**2
    coins = max(x * (1 - x), 0.0)
    n = min(coins / v, answers) if min(coins, v) > 1e-12 else answers
    t = student(max(patients - 1, 1))
    middle, half = x + t**2 / (2 * n), t * math.sqrt(coins / n + (t / (2 * n)) ** 2)
    low, high = ((middle + side) / (1 + t**2 / n) for side in (-half, half))
    return Score(value, least + scale * min(max(low, 0.0), x), least + scale * max(min(high, 1.0), x))


def student(freedom: int) -> float:
    """97.5 % of Student's t with so many degrees of freedom, at least 1, lie below it."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _alike(patients: Int[Tensor, " n"]) -> float:
    """Images a patient, weighted by images."""
    sizes = patients.unique(return_counts=True)[1].double()
    return float((sizes**2).sum() / sizes.sum()) if len(sizes) else 1.0
