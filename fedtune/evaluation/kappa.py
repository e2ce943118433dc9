"""Linear and quadratic Cohen's kappa: agreement on grades beyond chance, where larger misses have more weight.

kappa = 1 - sum(w O) / sum(w E), O the confusion matrix, E the one of independent predictions with the same margins, w
the distance of two grades (linear) or its square (Cohen 1968). It is computed from counts alone, so the pooled kappa is
exact. The user states that classes are grades (`ordinal`), because numbers may also be codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fedcore.errors import InputErrors

POWERS = {"kappa_linear": 1, "kappa_quadratic": 2}


def grade_order(classes: Sequence[str]) -> list[int]:
    """Indices of the classes in order of their grades, which are the first numbers in their names.

    2 comes before 10, and G1 before G2.

    Raises:
        InputErrors: A name has no number, or two names have the same.
    """
    numbers = [_number(name) for name in classes]
    errors = [f"'{name}' has no number" for name, n in zip(classes, numbers, strict=True) if n is None]
    errors += [
        f"'{classes[at]}' has the number of '{classes[numbers.index(n)]}'"
        for at, n in enumerate(numbers)
        if n is not None and numbers.index(n) < at
    ]
    if errors:
        advice = "ordinal ranks classes by the number in their names, such as 0, 1, 2 or '1 mild'; rename them, or"
        raise InputErrors("grades", errors, f"{advice} remove ordinal.")
    return sorted(range(len(numbers)), key=[n for n in numbers if n is not None].__getitem__)


def _number(name: str) -> float | None:
    """A name that is a number may have a sign; in other names a dash is not a sign."""
    try:
        number = float(name)
    except ValueError:
        found = re.search(r"\d+(\.\d+)?", name)
        return float(found[0]) if found else None
    return number if math.isfinite(number) else None


def kappas(confusion: Shaped[Tensor, "k k"], grades: Sequence[int]) -> dict[str, Float[Tensor, ""]]:
    """In [-1, 1]; 1 is best, 0 is chance. NaN where truth and predictions are of one grade. Neighbours differ by 1."""
    order = torch.tensor(grades)
    ranked = confusion[order][:, order].double()
    return {name: _kappa(ranked, power) for name, power in POWERS.items()}


def _kappa(confusion: Float[Tensor, "k k"], power: int) -> Float[Tensor, ""]:
    ranks = torch.arange(len(confusion), dtype=confusion.dtype)
    distance = (ranks[:, None] - ranks).abs() ** power
    chance = confusion.sum(1)[:, None] * confusion.sum(0) / confusion.sum()
    return 1 - (distance * confusion).sum() / (distance * chance).sum()
