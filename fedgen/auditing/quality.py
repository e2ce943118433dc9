"""How close synthetic images are to real ones, from the features of both at one site; only these scalars leave a site.

All figures but KID depend on the number of images, so synthetic and held-out images are compared with the training
images at equal numbers.

Features should come from an encoder that was pretrained on such images: networks trained on photographs say little
about a scan, and need three channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedgen.auditing.tstr import TSTR_METRICS, tstr

_FIGURES = ("kid", "precision", "recall", "density", "coverage")
QUALITY_METRICS = (*(of + name for of in ("", "held_out_") for name in _FIGURES), *TSTR_METRICS)
NEIGHBOURS = 5
MIN_IMAGES = 2 * NEIGHBOURS
"""On each side; with fewer no figure is given."""
MAX_IMAGES = 5000
"""Of a site that are compared: time grows with the number of pairs."""
SUBSETS = 10
"""Random subsets of the larger of two sets, of the size of the smaller."""
MAX_PAIRS = 1 << 22
"""Pairs of images in memory at once, 32 MB as float64; there are several such tables."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of images, with their classes."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    """-1: none."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int[Tensor, " k"]) -> FeatureSet:
        return FeatureSet(self.features[indices], self.labels[indices])


def quality_metrics(training: FeatureSet, held_out: FeatureSet, synthetic: FeatureSet) -> dict[str, float]:
    """`kid`, `precision`, `recall`, `density` and `coverage` of the synthetic images, the same with `held_out_` of as
    many held-out ones, and the figures of `fedgen.auditing.tstr.tstr`.

    Empty without features; figures for which there are too few images are missing.
    """
    training, held_out, synthetic = (
        next(random_subsets(part, MAX_IMAGES, 1)) for part in (training, held_out, synthetic)
    )
    if not training.features.shape[1] or len(training) < MIN_IMAGES:
        return {}
    size = min((len(part) for part in (held_out, synthetic) if len(part) >= MIN_IMAGES), default=0)
    metrics = {}
    for name, part in (("", synthetic), ("held_out_", held_out)):
        if len(part) >= MIN_IMAGES:
            metrics[f"{name}kid"] = kernel_distance(training.features, part.features)
            metrics |= {f"{name}{k}": v for k, v in _mean_prdc(training, part, size).items()}
    parts = (tensor for part in (synthetic, training, held_out) for tensor in (part.features, part.labels))
    return metrics | tstr(*parts)


def _mean_prdc(training: FeatureSet, part: FeatureSet, size: int) -> dict[str, float]:
    """`prdc` of subsets of that size, the mean over several."""
    found = [prdc(training.features, some.features) for some in random_subsets(part, size)]
    return {name: fmean(one[name] for one in found) for name in found[0]}


def random_subsets(whole: FeatureSet, size: int, count: int = SUBSETS) -> Iterator[FeatureSet]:
    """`count` random subsets of `size` images, the same at each call; the whole set once, where it is not larger."""
    if len(whole) <= size:
        yield whole
        return
    random = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield whole.take(torch.randperm(len(whole), generator=random)[:size])


def kernel_distance(real: Float[Tensor, "n d"], synthetic: Float[Tensor, "m d"]) -> float:
    """KID: the unbiased squared maximum mean discrepancy under (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv
    1801.01401); near 0, and possibly below, for sets of one distribution. All pairs, no subsets.
    """
    n, m = len(real), len(synthetic)
    within_real = (_cubic(real, real) - _diagonal(real)) / (n * (n - 1))
    within = within_real + (_cubic(synthetic, synthetic) - _diagonal(synthetic)) / (m * (m - 1))
    return within - 2 * _cubic(real, synthetic) / (n * m)


def _cubic(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Sum of the kernel over all pairs."""
    other = b.double().T
    return sum(float(((part.double() @ other / a.shape[1] + 1) ** 3).sum()) for part in _parts(a, len(b)))


def _diagonal(a: Float[Tensor, "n d"]) -> float:
    """Sum of the kernel over pairs of an image and itself."""
    return float(((a.double().square().sum(1) / a.shape[1] + 1) ** 3).sum())


def _parts(a: Float[Tensor, "n d"], others: int) -> tuple[Float[Tensor, "part d"], ...]:
    """Parts of `a` with at most `MAX_PAIRS` pairs with so many other images."""
    return a.split(max(1, MAX_PAIRS // others))


def prdc(real: Float[Tensor, "n d"], synthetic: Float[Tensor, "m d"], k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
    arXiv 2002.09797), from balls around each image whose radius is the distance to its k-th neighbour in its own set.

    precision: part of the synthetic images in a ball of a real one. recall: part of the real images in a ball of a
    synthetic one. density: number of real balls that a synthetic image lies in, over k; may exceed 1. coverage: part of
    the real balls that contain a synthetic image; for one distribution near 1 - 2^-k where both sides are large.
    """
    real_radii, synthetic_radii = kth_neighbour_distances(real, k), kth_neighbour_distances(synthetic, k)
    exact = synthetic.double()
    balls, recalled, covered = torch.zeros(len(synthetic), dtype=torch.int64), [], []
    radii = _parts(real_radii[:, None], len(synthetic))
    for part, radius in zip(_parts(real, len(synthetic)), radii, strict=True):
        distances = torch.cdist(part.double(), exact)
        in_real: Bool[Tensor, "part m"] = distances <= radius
        balls += in_real.sum(0)
        covered.append(in_real.any(1))
        recalled.append((distances <= synthetic_radii).any(1))
    return {
        "precision": float((balls > 0).double().mean()), "recall": float(torch.cat(recalled).double().mean()),
        "density": float(balls.double().mean() / k), "coverage": float(torch.cat(covered).double().mean()),
    }  # fmt: skip


def kth_neighbour_distances(features: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Distance of each image to its k-th nearest neighbour, itself not counted; needs more than k images."""
    exact = features.double()
    return torch.cat([torch.cdist(part, exact).kthvalue(k + 1, dim=1).values for part in _parts(exact, len(exact))])
