"""The Frechet distance of two sets of features, exact although no site sends features (Heusel et al. 2017,
arXiv 1706.08500).

Count, sum and sum of outer products add up over sites, so the distance to the images of all hospitals equals that
of the pooled images, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.messages.message import Message
from fedcore.messages.reveals import STATISTICS


@dataclass(frozen=True)
class Moments(Message):
    """Count, sum and sum of outer products of features, in float64: d (d + 1) numbers of 8 bytes for any number of
    images. With a first axis k: of k groups of images."""

    count: Float[Tensor, "*k"] = field(metadata=STATISTICS)
    total: Float[Tensor, "*k d"] = field(metadata=STATISTICS)
    outer: Float[Tensor, "*k d d"] = field(metadata=STATISTICS)
    """Sum of outer products."""

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> Moments:
        exact = features.double()
        return cls(torch.tensor(float(len(exact)), dtype=torch.float64), exact.sum(0), exact.T @ exact)

    @classmethod
    def by_class(cls, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int) -> Moments:
        """A group for each class and, last, one for all other images: without a class, or of a small class.

        The moments of one image are its features, and those of a few images reveal nearly as much. So each group is
        empty or has at least `MIN_IMAGES` images, and a site with fewer images in all sends empty groups. The sum of
        all groups is still the moments of all images.
        """
        rows = torch.where(labels < 0, classes, labels)
        for small in torch.bincount(rows, minlength=classes + 1)[:classes].argsort(stable=True):
            others = int((rows == classes).sum())
            if 0 < int((rows == small).sum()) < MIN_IMAGES or 0 < others < MIN_IMAGES:
                rows = torch.where(rows == small, classes, rows)
        enough = len(rows) >= MIN_IMAGES
        groups = [cls.of(features[rows == row] if enough else features[:0]) for row in range(classes + 1)]
        return cls(*(torch.stack([getattr(m, name) for m in groups]) for name in FIELDS))

    def group(self, index: int) -> Moments:
        return Moments(*(getattr(self, name)[index] for name in FIELDS))

    def all_groups(self) -> Moments:
        """Of the features of all groups."""
        return Moments(*(getattr(self, name).sum(0) for name in FIELDS))

    @property
    def mean(self) -> Float[Tensor, " d"]:
        return self.total / self.count

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased; needs at least two images."""
        return (self.outer - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


FIELDS = ("count", "total", "outer")
MIN_IMAGES = 20
"""Of a group that leaves a site."""


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of the features of all sites; at least one part."""
    found = list(parts)
    return Moments(*(torch.stack([getattr(m, name) for m in found]).sum(0) for name in FIELDS))


def frechet(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)); 0 for equal moments.

    The trace of the root is the sum of the roots of the eigenvalues of C_a C_b. They equal those of the symmetric
    C_a^(1/2) C_b C_a^(1/2) and are real; SciPy's root of the product itself can become complex.

    Raises:
        ValueError: A side has fewer than two images. With fewer than a few times d images the figure is biased upwards.
    """
    if min(a.count, b.count) < 2:
        raise ValueError(f"a Frechet distance needs 2 images on each side, got {int(a.count)} and {int(b.count)}")
    values, vectors = torch.linalg.eigh(a.covariance)
    half = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(half @ b.covariance @ half).clamp_min(0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    return float(((a.mean - b.mean) ** 2).sum() + spread)
