"""A metric in which an image and its perturbed versions are near, and images of different patients far apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_SHRINKAGE = 0.02


@dataclass(frozen=True)
class Metric:
    """Linear discriminants (Fisher 1936, doi 10.1111/j.1469-1809.1936.tb02137.x): directions along which images differ
    much more from one another than from their own perturbed versions."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d k"]

    @staticmethod
    def fit(images: Float[Tensor, "n d"], perturbed: Float[Tensor, "n r d"], k: int) -> Metric:
        """Fits the k best directions, fewer than n, to n images and r perturbed versions of each."""
        mean = images.mean(0)
        change = (perturbed - images[:, None]).flatten(0, 1)
        within = change.T @ change / len(change)
        within = within + (_SHRINKAGE * within.diagonal().mean() + 1e-9) * torch.eye(len(within))
        between = (images - mean).T @ (images - mean) / len(images)
        root = torch.linalg.cholesky(within)
        half = torch.linalg.solve_triangular(root, between, upper=False)
        _, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
        kept = vectors[:, -max(1, min(k, len(images) - 1)) :]
        return Metric(mean, torch.linalg.solve_triangular(root.mT, kept, upper=True))

    def __call__(self, images: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """Codes of length 1: the product of two is their similarity, at most 1."""
        return normalize(self.project(images), dim=-1)

    def project(self, images: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        return (images - self.mean) @ self.directions
