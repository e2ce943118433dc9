"""A metric in which an image and itself in disguise are near, and images of different patients far apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_SHRINK = 0.02


@dataclass(frozen=True)
class Metric:
    """Linear discriminants (Fisher 1936, doi 10.1111/j.1469-1809.1936.tb02137.x): directions along which images differ
    much more from one another than from themselves in disguise."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d k"]

    @staticmethod
    def of(images: Float[Tensor, "n d"], disguised: Float[Tensor, "n r d"], k: int) -> Metric:
        """Of n images and r disguises of each; the k best directions, fewer than n."""
        mean = images.mean(0)
        change = (disguised - images[:, None]).flatten(0, 1)
        within = change.T @ change / len(change)
        within = within + (_SHRINK * within.diagonal().mean() + 1e-9) * torch.eye(len(within))
        between = (images - mean).T @ (images - mean) / len(images)
        root = torch.linalg.cholesky(within)
        half = torch.linalg.solve_triangular(root, between, upper=False)
        _, found = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
        kept = found[:, -max(1, min(k, len(images) - 1)) :]
        return Metric(mean, torch.linalg.solve_triangular(root.mT, kept, upper=True))

    def __call__(self, images: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """Of length 1: a product of two is their similarity, at most 1."""
        return normalize(self.raw(images), dim=-1)

    def raw(self, images: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        return (images - self.mean) @ self.directions
