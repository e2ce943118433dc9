"""How near drawn images are to real ones, from features of both at one place; what leaves a site are these scalars.

All but KID depend on how many images there are, so drawn and held-out ones are compared with the trained ones at equal
numbers.

Features come from an encoder that was pretrained on such images: networks trained on photographs tell little of a
scan, and want three channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedgen.auditing.tstr import tstr

NEIGHBOURS = 5
LEAST = 2 * NEIGHBOURS
"""Images on each side below which no figure is given."""
MOST = 5000
"""Images of a site that are looked at: time grows with the pairs of them."""
DRAWS = 10
"""Of the larger of two sets, to the size of the smaller."""
PAIRS = 1 << 22
"""Pairs of images whose figures are in memory at once, 32 MB as float64; several such tables are."""


@dataclass(frozen=True)
class Sample:
    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    """-1: none."""

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, places: Int[Tensor, " k"]) -> Sample:
        return Sample(self.features[places], self.labels[places])


def alike(trained: Sample, held: Sample, drawn: Sample) -> dict[str, float]:
    """Quality of the drawn images; `held_out_...`: of as many held-out ones. And what a classifier learns of them.

    Empty without features, and without a figure that too few images stand behind.
    """
    trained, held, drawn = (next(drawings(part, MOST, 1)) for part in (trained, held, drawn))
    if not trained.features.shape[1] or len(trained) < LEAST:
        return {}
    size = min((len(part) for part in (held, drawn) if len(part) >= LEAST), default=0)
    told = {}
    for name, part in (("", drawn), ("held_out_", held)):
        if len(part) >= LEAST:
            told[f"{name}kid"] = kernel_distance(trained.features, part.features)
            told |= {f"{name}{k}": v for k, v in _covered(trained, part, size).items()}
    parts = (tensor for part in (drawn, trained, held) for tensor in (part.features, part.labels))
    return told | tstr(*parts)


def _covered(trained: Sample, part: Sample, size: int) -> dict[str, float]:
    """`coverage` of so many of `part`, the mean of several drawings."""
    found = [coverage(trained.features, some.features) for some in drawings(part, size)]
    return {name: fmean(one[name] for one in found) for name in found[0]}


def drawings(whole: Sample, size: int, count: int = DRAWS) -> Iterator[Sample]:
    """`count` random parts of so many images, the same at each call; once all, where there are no more."""
    if len(whole) <= size:
        yield whole
        return
    random = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield whole.of(torch.randperm(len(whole), generator=random)[:size])


def kernel_distance(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"]) -> float:
    """KID: the unbiased squared maximum mean discrepancy under (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv
    1801.01401); near 0, and possibly below, for sets of one law. All pairs, no subsets.
    """
    n, m = len(real), len(drawn)
    within = (_cubic(real, real) - _own(real)) / (n * (n - 1)) + (_cubic(drawn, drawn) - _own(drawn)) / (m * (m - 1))
    return within - 2 * _cubic(real, drawn) / (n * m)


def _cubic(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """The kernel's sum over all pairs."""
    other = b.double().T
    return sum(float(((part.double() @ other / a.shape[1] + 1) ** 3).sum()) for part in _parts(a, len(b)))


def _own(a: Float[Tensor, "n d"]) -> float:
    """The kernel's sum over pairs of an image and itself."""
    return float(((a.double().square().sum(1) / a.shape[1] + 1) ** 3).sum())


def _parts(a: Float[Tensor, "n d"], others: int) -> tuple[Float[Tensor, "part d"], ...]:
    """Parts of `a` whose pairs with so many others are at most `PAIRS`."""
    return a.split(max(1, PAIRS // others))


def coverage(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
    arXiv 2002.09797), from balls around each image that reach its k-th neighbour among its like.

    precision: part of the drawn in a ball of a real. recall: part of the real in a ball of a drawn. density: balls of
    real a drawn lies in, over k; may exceed 1. coverage: part of the real balls that hold a drawn. Of one law,
    coverage is near 1 - 2^-k where both sides are large.
    """
    of_real, of_drawn, exact = reach(real, k), reach(drawn, k), drawn.double()
    balls, recalled, covered = torch.zeros(len(drawn), dtype=torch.int64), [], []
    for part, radius in zip(_parts(real, len(drawn)), _parts(of_real[:, None], len(drawn)), strict=True):
        apart = torch.cdist(part.double(), exact)
        in_real: Bool[Tensor, "part m"] = apart <= radius
        balls += in_real.sum(0)
        covered.append(in_real.any(1))
        recalled.append((apart <= of_drawn).any(1))
    return {
        "precision": float((balls > 0).double().mean()), "recall": float(torch.cat(recalled).double().mean()),
        "density": float(balls.double().mean() / k), "coverage": float(torch.cat(covered).double().mean()),
    }  # fmt: skip


def reach(features: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Distance of each to its k-th nearest neighbour, itself not counted; needs more than k."""
    exact = features.double()
    return torch.cat([torch.cdist(part, exact).kthvalue(k + 1, dim=1).values for part in _parts(exact, len(exact))])
