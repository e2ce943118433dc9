"""The Frechet distance of two sets of features, exact though no site sends a feature (Heusel et al. 2017,
arXiv 1706.08500).

Count, sum and sum of outer products add up over sites, so the distance to all hospitals' images together is that of
the pooled images to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.messages.message import STATISTICS, Message


@dataclass(frozen=True)
class Moments(Message):
    """Of features, in float64; d (d + 1) numbers of 8 bytes, whatever the number of images. With a first axis k, of
    k groups of them."""

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
        """A group for each class and, last, one for all other images: those without a class, and of small classes.

        The moments of one image are its features, and those of a few say nearly as much. So no group but an empty one
        has fewer than LEAST images, and a site with fewer in all sends empty ones. All groups together are still the
        moments of all images.
        """
        rows = torch.where(labels < 0, classes, labels)
        for small in torch.bincount(rows, minlength=classes + 1)[:classes].argsort(stable=True):
            others = int((rows == classes).sum())
            if 0 < int((rows == small).sum()) < LEAST or 0 < others < LEAST:
                rows = torch.where(rows == small, classes, rows)
        enough = len(rows) >= LEAST
        groups = [cls.of(features[rows == row] if enough else features[:0]) for row in range(classes + 1)]
        return cls(*(torch.stack([getattr(m, name) for m in groups]) for name in FIELDS))

    def group(self, at: int) -> Moments:
        return Moments(*(getattr(self, name)[at] for name in FIELDS))

    def together(self) -> Moments:
        """Of all groups' features."""
        return Moments(*(getattr(self, name).sum(0) for name in FIELDS))

    @property
    def mean(self) -> Float[Tensor, " d"]:
        return self.total / self.count

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased; needs two images."""
        return (self.outer - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


FIELDS = ("count", "total", "outer")
LEAST = 20
"""Images of a group that leaves a site."""


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of all sites' features together; at least one part."""
    found = list(parts)
    return Moments(*(torch.stack([getattr(m, name) for m in found]).sum(0) for name in FIELDS))


def frechet(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)); 0 for equal moments.

    The trace of the root is the sum of the roots of C_a C_b's eigenvalues, which are those of the symmetric
    C_a^(1/2) C_b C_a^(1/2) and so real; SciPy's root of the product itself can turn complex.

    Raises:
        ValueError: A set has fewer than two images. With fewer than some times d the figure is biased upwards.
    """
    if min(a.count, b.count) < 2:
        raise ValueError(f"a Frechet distance needs 2 images on each side, got {int(a.count)} and {int(b.count)}")
    values, vectors = torch.linalg.eigh(a.covariance)
    half = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(half @ b.covariance @ half).clamp_min(0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    return float(((a.mean - b.mean) ** 2).sum() + spread)
