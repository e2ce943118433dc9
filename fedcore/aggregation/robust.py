"""Aggregation rules that limit the influence of single sites: trimmed mean and median, coordinate by coordinate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.aggregation.base import accumulator_dtype, require_shape, to_dtype
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.tensors import Tensors

_CHUNK = 1 << 15
"""Coordinates that are sorted at a time."""


@dataclass(frozen=True)
class TrimmedMean:
    """Coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498). Holds all contributions in memory.

    Of n sites, ceil(trim * n) are cut from each end, so that one bad site of three is removed; at least one or two
    remain. Of two sites none is cut, because nothing shows which of them is bad.
    """

    trim: float = 0.1
    """Fraction that is cut from each end, in [0, 0.5)."""

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim must lie in [0, 0.5), got {self.trim}")

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        return current | _by_coordinate(contributions, self._trimmed)

    def _trimmed(self, values: Float[Tensor, "sites chunk"]) -> Float[Tensor, " chunk"]:
        n = len(values)
        cut = min(ceil(self.trim * n - 1e-9), (n - 1) // 2)  # 0.29 * 100 is 28.999999999999996, 0.07 * 100 above 7
        return values[cut : len(values) - cut].mean(0)


@dataclass(frozen=True)
class Median:
    """Coordinate-wise median (Yin et al. 2018, arXiv 1803.01498). Holds all contributions in memory.

    With an even number of sites, the mean of the middle two.
    """

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        return current | _by_coordinate(contributions, self._median)

    def _median(self, values: Float[Tensor, "sites chunk"]) -> Float[Tensor, " chunk"]:
        n = len(values)
        return torch.lerp(values[(n - 1) // 2], values[n // 2], 0.5)


def _by_coordinate(
    contributions: Iterable[Contribution[Weights]],
    rule: Callable[[Float[Tensor, "sites chunk"]], Float[Tensor, " chunk"]],
) -> Tensors:
    """Applies `rule` to each coordinate's values over the sites, sorted in ascending order, in chunks of coordinates.

    In addition to contributions and result, memory holds copies of one chunk: `_CHUNK` numbers per site.
    """
    sent: dict[str, list[Tensor]] = defaultdict(list)
    for c in contributions:
        for name, t in c.message.tensors.items():
            require_shape(c.site, name, t, sent[name][0] if sent[name] else t)
            sent[name].append(t)
    if not sent:
        raise InputError("no site contributed to this round, so there is nothing to aggregate")
    return {name: _apply(tensors, rule) for name, tensors in sent.items()}


def _apply(tensors: Sequence[Tensor], rule: Callable[[Tensor], Tensor]) -> Tensor:
    first, rows = tensors[0], [t.flatten() for t in tensors]
    result = torch.empty(first.numel(), dtype=accumulator_dtype(first))
    for begin in range(0, first.numel(), _CHUNK):
        at = slice(begin, begin + _CHUNK)
        result[at] = rule(torch.stack([row[at].to(result.dtype) for row in rows]).sort(0).values)
    return to_dtype(result.view(first.shape), first.dtype)
