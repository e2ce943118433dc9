"""Server rules that turn the contributions of a round into one set of tensors.

They act on everything that travels, buffers included: the running mean of a batch norm is averaged,
its integer step counter keeps its type. Tensors come back in the types they were sent in.

A site may send some of them only. Each tensor is then ruled by those who sent it, and the server keeps its own of
what nobody sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.errors import InputError
from fedcore.messages.message import Contribution, Tensors, Weights

_PART = 1 << 15
"""Coordinates that are sorted at a time."""


@runtime_checkable
class Aggregator(Protocol):
    """Permutation invariant; a mean of any kind is the identity on one site.

    `current` are the server's tensors, from which the sites of this round began.
    """

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors: ...


@dataclass(frozen=True)
class Mean:
    """Weighted mean, in one pass and one model of memory (FedAvg, McMahan et al. 2017, arXiv 1602.05629)."""

    weight: str = "examples"
    """Weight of a site: `examples`, `equal`, or the name of a metric that its visit reports (>= 0)."""

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        total: Tensors = {}
        types: dict[str, torch.dtype] = {}
        mass: dict[str, float] = {}
        for c in contributions:
            w = self._weight_of(c)
            for name, t in c.message.tensors.items():
                _require_shape(c.site, name, t, total.get(name, current.get(name, t)))
                types[name] = t.dtype
                mass[name] = mass.get(name, 0.0) + w
                # Running mean: total += (t - total) * w/mass, exact for one site and free of overflow.
                if name in total:
                    total[name].lerp_(t.to(total[name].dtype), w / mass[name] if mass[name] else 0.0)
                else:
                    total[name] = t.to(_accumulator(t), copy=True)
        if not types:
            raise InputError("no site contributed to this round, so there is nothing to average")
        if not any(mass.values()):
            raise InputError(
                f"Mean(weight={self.weight!r}) needs a weight above 0 of some site, all sent 0; weigh by examples"
            )
        return current | {name: _as(t, types[name]) for name, t in total.items() if mass[name]}

    def _weight_of(self, c: Contribution[Weights]) -> float:
        if self.weight in ("examples", "equal"):
            return float(c.examples) if self.weight == "examples" else 1.0
        if self.weight not in c.metrics:
            raise InputError(
                f"Mean(weight={self.weight!r}) needs that metric of site {c.site!r}, which sent "
                f"{sorted(c.metrics) or 'none'}; add the guide that measures it, or let the policy pass metrics"
            )
        return max(0.0, c.metrics[self.weight])


@dataclass(frozen=True)
class TrimmedMean:
    """Coordinate-wise mean without the tails (Yin et al. 2018, arXiv 1803.01498). Holds every contribution.

    Of n sites ceil(trim * n) are cut from each end, so one bad site of three is, but one or two are always left: of two
    sites none is cut, because nothing tells which of them is bad.
    """

    trim: float = 0.1
    """Fraction cut from each end, in [0, 0.5)."""

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim must lie in [0, 0.5), got {self.trim}")

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        return current | _by_coordinate(contributions, self._trimmed)

    def _trimmed(self, values: Float[Tensor, "sites part"]) -> Float[Tensor, " part"]:
        n = len(values)
        cut = min(ceil(self.trim * n - 1e-9), (n - 1) // 2)  # 0.29 * 100 is 28.999999999999996, 0.07 * 100 above 7
        return values[cut : len(values) - cut].mean(0)


@dataclass(frozen=True)
class Median:
    """Coordinate-wise median, the mean of the middle two for an even count (Yin et al. 2018, arXiv 1803.01498).

    Holds every contribution.
    """

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        return current | _by_coordinate(contributions, self._median)

    def _median(self, values: Float[Tensor, "sites part"]) -> Float[Tensor, " part"]:
        n = len(values)
        return torch.lerp(values[(n - 1) // 2], values[n // 2], 0.5)


def _require_shape(site: str, name: str, sent: Tensor, like: Tensor) -> None:
    """Raises InputError; torch would repeat a smaller tensor, and the mean would be one of no model."""
    if sent.shape != like.shape:
        raise InputError(
            f"site {site!r} sent {name} of shape {tuple(sent.shape)}, others and the server have {tuple(like.shape)}; "
            "all sites must train the same architecture"
        )


def _accumulator(t: Tensor) -> torch.dtype:
    """float32 for floats; float64 for integers, which it holds exactly up to 2^53."""
    return torch.promote_types(t.dtype, torch.float32) if t.is_floating_point() else torch.float64


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.to(dtype) if dtype.is_floating_point else t.round().to(dtype)


def _by_coordinate(
    contributions: Iterable[Contribution[Weights]],
    rule: Callable[[Float[Tensor, "sites part"]], Float[Tensor, " part"]],
) -> Tensors:
    """Every tensor by a rule that is given what the sites sent in ascending order, a part of the coordinates at a time.

    Beside what the sites sent and the result, memory holds the copies of one part: `_PART` numbers a site.
    """
    sent: dict[str, list[Tensor]] = defaultdict(list)
    for c in contributions:
        for name, t in c.message.tensors.items():
            _require_shape(c.site, name, t, sent[name][0] if sent[name] else t)
            sent[name].append(t)
    if not sent:
        raise InputError("no site contributed to this round, so there is nothing to aggregate")
    return {name: _ruled(tensors, rule) for name, tensors in sent.items()}


def _ruled(tensors: Sequence[Tensor], rule: Callable[[Tensor], Tensor]) -> Tensor:
    first, rows = tensors[0], [t.flatten() for t in tensors]
    ruled = torch.empty(first.numel(), dtype=_accumulator(first))
    for begin in range(0, first.numel(), _PART):
        at = slice(begin, begin + _PART)
        ruled[at] = rule(torch.stack([row[at].to(ruled.dtype) for row in rows]).sort(0).values)
    return _as(ruled.view(first.shape), first.dtype)
