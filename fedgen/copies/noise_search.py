"""Which training images is a noisy image most similar to? Similarities in a learned metric.

A noisy image is near other images by chance, the more the noisier it is. So held-out images with the same noise are
the reference for nearness without copying.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fedgen.copies.matching import CHUNK, Matches, candidates, downsampled, metric_images, mirror_axes, pixel_vectors
from fedgen.copies.metric import Metric
from fedgen.copies.registration import centred

SIDE = {2: 16, 3: 8}
"""Pixels per side of the images that are compared, by number of spatial dimensions."""
NOISE_LEVELS = 0.0, 0.15, 0.3, 0.45, 0.6, 0.75
"""Standard deviations that are distinguished; black and white are -1 and 1. Noisier images are not judged."""
_PERTURBATIONS = 24
"""With fewer the metric fits their noise rather than noise in general."""
_MIN_SIGNAL = 0.5
"""Least part of the compared vector that is taken for signal: with a larger correction everything would be similar."""


@dataclass(frozen=True)
class NoiseSearch:
    """Compares images of which one may be noisy: in all mirrorings, but in no other pose.

    Noise lowers a correlation by a factor that follows from its size (attenuation, Spearman 1904, doi
    10.2307/1412159); similarities are divided by that factor.
    """

    patients: Int[Tensor, " m"]
    metric: Metric
    codes: Float[Tensor, "m k"] = field(repr=False)
    measured_levels: Float[Tensor, " v"]
    """Standard deviation of noise measured in training images with each of `NOISE_LEVELS` added; the first is without
    added noise."""

    @staticmethod
    def fit(training: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"]) -> NoiseSearch:
        """Arguments as in `fedgen.copies.pose_search.PoseSearch.fit`."""
        dims, some = training.dim() - 2, metric_images(training)
        perturbed = [pixel_vectors(with_noise(some, 0.5, seed), SIDE[dims]) for seed in range(_PERTURBATIONS)]
        metric = Metric.fit(pixel_vectors(some, SIDE[dims]), torch.stack(perturbed, 1), 64)
        numbers = patients.unique(return_inverse=True)[1]
        levels = torch.stack([noise_variance(with_noise(some, sd)).median().sqrt() for sd in NOISE_LEVELS])
        return NoiseSearch(numbers, metric, metric(pixel_vectors(training, SIDE[dims])), levels)

    def level(self, images: Float[Tensor, "n c *space"]) -> Int[Tensor, " n"]:
        """Index of the nearest of `NOISE_LEVELS` of each image; their number where the image is noisier than all."""
        measured = noise_variance(images).sqrt()
        steps = self.measured_levels.diff() / 2
        return torch.searchsorted(self.measured_levels + torch.cat([steps, steps[-1:]]), measured)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Matches:
        found = [self._match(part) for part in images.split(CHUNK)]
        return Matches(
            torch.cat([m.similarity for m in found]), torch.cat([m.index for m in found]), found[0].per_patient
        )

    def _match(self, images: Float[Tensor, "n c *space"]) -> Matches:
        dims = images.dim() - 2
        small = downsampled(images, SIDE[dims])
        pixels = small[0, 0].numel() / images[0, 0].numel()
        extra = (noise_variance(images) - self.measured_levels[0].square()).clamp_min(0) * pixels
        flat = small.flatten(1)
        noise_part = extra / (flat - flat.mean(1, keepdim=True)).square().sum(1).clamp_min(1e-9)
        best: Tensor | None = None
        for axes in mirror_axes(dims):
            code = self.metric.project(centred(small.flip(axes)))
            of_noise = noise_part * self.metric.directions.square().sum() / code.square().sum(1).clamp_min(1e-9)
            similarity = normalize(code, dim=1) @ self.codes.T / (1 - of_noise).clamp_min(_MIN_SIGNAL).sqrt()[:, None]
            best = similarity if best is None else torch.maximum(best, similarity)
        assert best is not None
        index, per_patient = candidates(best, self.patients)
        return Matches(best.gather(1, index).clamp_max(1), index, per_patient)


def with_noise(images: Float[Tensor, "n c *space"], sd: float, seed: int = 0) -> Float[Tensor, "n c *space"]:
    """Gaussian noise of standard deviation `sd` added; the same noise for the same seed and shape."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return (images + sd * torch.randn(images.shape, generator=generator)).clamp(-1, 1) if sd else images


def noise_variance(images: Float[Tensor, "n c *space"]) -> Float[Tensor, " n"]:
    """Variance of white noise in each image, by second differences along every axis (Immerkaer 1996, doi
    10.1006/cviu.1996.0060). Anatomy adds a little to it."""
    rest = images
    for axis in range(2, images.dim()):
        size = rest.shape[axis]
        before, here, after = (rest.narrow(axis, start, size - 2) for start in range(3))
        rest = before - 2 * here + after
    return rest.square().flatten(1).mean(1) / 6 ** (images.dim() - 2)
