"""95 % intervals of scores, from the counts that sites send, without bootstrap draws.

A score is a smooth function of the counts. Its derivative by the cell of an image is the image's influence, and the
sum of squared influences is the variance of the score (infinitesimal jackknife, Jaeckel 1972; Efron 1982). Errors of
images of one patient are correlated, so influences are added by patient before they are squared.

The server knows the counts of each table, not the cells of an image in several tables, nor its patient. It adds the
standard deviations of the tables as if their errors were fully correlated, which is an upper bound. The site knows the
true value and sends one number per score: the variance by patients over the server's bound (a design effect, Kish
1965). Our reading: the pooled score has the derivative of all counts together, and each site its own design effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedtune.evaluation.counts import CellIndices, Counts
from fedtune.evaluation.scores import Score, compute_scores

Gradients = tuple[Float[Tensor, "_ _"], ...]
"""The derivatives of a score by the cells of each of `Counts.tables`."""


def score_gradients(counts: Counts, grades: Sequence[int] = ()) -> dict[str, tuple[float, Gradients]]:
    """The value of each of `compute_scores`, and its derivatives by the counts."""
    with torch.enable_grad():
        confusion, histogram = (part.double().requires_grad_() for part in (counts.confusion, counts.histogram))
        found = {}
        for name, value in compute_scores(Counts(confusion, histogram, counts.reliability), grades).items():
            by = torch.autograd.grad(value, (confusion, histogram), retain_graph=True, materialize_grads=True)
            found[name] = value.item(), tuple(Counts(by[0], by[1], counts.reliability).tables())
    return found


def variance_bound(counts: Counts, gradients: Gradients) -> float:
    """The variance of a score by one site's images, if errors of tables are fully correlated and every patient has one
    image."""
    deviations = 0.0
    for table, gradient in zip(counts.tables(), gradients, strict=True):
        n, weighted = table.sum(1).double(), table * gradient
        squares = (weighted * gradient).sum(1) - weighted.sum(1) ** 2 / n.clamp_min(1)
        deviations += float((squares.clamp_min(0) * n / (n - 1).clamp_min(1)).sqrt().sum())
    return deviations**2


def patient_variance(cells: CellIndices, patients: Int[Tensor, " n"], gradients: Gradients) -> float:
    """The variance of a score by one site's patients, at least two of them."""
    influence = torch.zeros(len(patients), dtype=torch.float64)
    for cell, gradient in zip((cells.confusion, cells.histogram), gradients, strict=True):
        of_image = gradient.gather(1, cell.T.clamp_min(0))
        influence += torch.where(cell.T < 0, 0.0, of_image).sum(0)
    distinct, owner = patients.unique(return_inverse=True)
    m = len(distinct)
    return float(torch.zeros(m, dtype=torch.float64).index_add_(0, owner, influence).var() * m)


def design_effects(cells: CellIndices, patients: Int[Tensor, " n"], grades: Sequence[int] = ()) -> list[float]:
    """The design effect of each of `compute_scores`, in their order, to two digits to reveal little of any patient.

    Where the site's own score does not exist or has no variance, it is that of patients whose images are identical: 1
    for one image per patient.
    """
    counts = cells.count()
    default = _identical_images_effect(patients)
    found = []
    for value, gradients in score_gradients(counts, grades).values():
        bound = 0.0 if math.isnan(value) else variance_bound(counts, gradients)
        known = bound > 1e-12 and len(patients.unique()) > 1
        effect = patient_variance(cells, patients, gradients) / bound if known else default
        found.append(max(two_digits(effect), 0.01))
    return found


def wilson_interval(value: float, variance: float, max_trials: float, patients: int, lowest: float = 0.0) -> Score:
    """Wilson's interval (1927) of a score in [lowest, 1], with Student's quantile in place of the normal one.

    The number of Bernoulli trials is the one that has this variance (Korn & Graubard 1998), and at most `max_trials`,
    images over their design effect: so a score of 1 has an interval too.
    """
    if math.isnan(value):
        return Score(math.nan, math.nan, math.nan)
    scale = 1 - lowest
    x, v = (value - lowest) / scale, variance / scale**2
    bernoulli = max(x * (1 - x), 0.0)
    n = min(bernoulli / v, max_trials) if min(bernoulli, v) > 1e-12 else max_trials
    t = student_quantile(max(patients - 1, 1))
    middle, half = x + t**2 / (2 * n), t * math.sqrt(bernoulli / n + (t / (2 * n)) ** 2)
    low, high = ((middle + side) / (1 + t**2 / n) for side in (-half, half))
    return Score(value, lowest + scale * min(max(low, 0.0), x), lowest + scale * max(min(high, 1.0), x))


def student_quantile(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution, for at least 1 degree of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, 0.975))


def two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _identical_images_effect(patients: Int[Tensor, " n"]) -> float:
    """Mean number of images per patient, weighted by images."""
    sizes = patients.unique(return_counts=True)[1].double()
    return float((sizes**2).sum() / sizes.sum()) if len(sizes) else 1.0
