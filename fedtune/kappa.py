"""Agreement on grades beyond chance, by which a miss by two grades is worse than one by one.

kappa = 1 - sum(w O) / sum(w E), O the confusion matrix, E the one of independent guesses with the same margins, w the
distance of two grades (linear) or its square (Cohen 1968). It is made of counts alone, so the pooled one is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedtune.scores import Score, interval

POWERS = {"kappa_linear": 1, "kappa_quadratic": 2}


def grades_of(classes: Sequence[str]) -> list[int] | None:
    """Places of the classes from the least number to the greatest, if all of them are numbers and two at least.

    Whether the numbers rank anything is the reader's to know.
    """
    try:
        numbers = [float(name) for name in classes]
    except ValueError:
        return None
    if len(set(numbers)) < max(2, len(numbers)) or not all(map(math.isfinite, numbers)):
        return None
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def kappas(confusion: Int[Tensor, "r k k"], grades: Sequence[int]) -> dict[str, Score]:
    """In [-1, 1]; 1 is best, 0 is chance. NaN where truth and guesses are of one grade. Neighbours differ by 1."""
    order = torch.tensor(grades)
    ranked = confusion[:, order][:, :, order].double()
    return {name: interval(_kappa(ranked, power)) for name, power in POWERS.items()}


def _kappa(confusion: Float[Tensor, "r k k"], power: int) -> Float[Tensor, "r"]:
    ranks = torch.arange(confusion.shape[1], dtype=confusion.dtype)
    distance = (ranks[:, None] - ranks).abs() ** power
    chance = confusion.sum(2)[:, :, None] * confusion.sum(1)[:, None] / confusion.sum((1, 2))[:, None, None]
    return 1 - (distance * confusion).sum((1, 2)) / (distance * chance).sum((1, 2))
