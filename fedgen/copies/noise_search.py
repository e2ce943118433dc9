"""Which trained images is a noisy image most like? Similarities in a learned metric.

A noisy image comes near others by chance, the more the noisier it is. What is nearness without copying, held-out images
say that were made as noisy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fedgen.copies.matching import CHUNK, Matches, learned_from, mirrorings, nearest, pixels_of, reduced
from fedgen.copies.metric import Metric
from fedgen.copies.registration import centred

SMOOTH = {2: 16, 3: 8}
"""Pixels a side of what is compared."""
NOISES = 0.0, 0.15, 0.3, 0.45, 0.6, 0.75
"""Standard deviations that are told apart, where black and white are -1 and 1. Noisier images are not judged."""
_DISGUISES = 24
"""Fewer, and the metric learns their noise rather than noise."""
_SIGNAL = 0.5
"""Where noise is more than this part of what is compared, no more of it is made up for: everything would be alike."""


@dataclass(frozen=True)
class Noisy:
    """Compares images of which one may be noisy; mirrored, but in no other pose.

    Noise lessens a correlation by a factor that its size tells (attenuation, Spearman 1904, doi 10.2307/1412159), and
    similarities are divided by that.
    """

    patients: Int[Tensor, " m"]
    metric: Metric
    codes: Float[Tensor, "m k"] = field(repr=False)
    levels: Float[Tensor, " v"]
    """Standard deviation of the noise that trained images show with each of `NOISES`; the first is their own."""

    @staticmethod
    def of(trained: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"]) -> Noisy:
        """As `fedgen.copies.pose_search.Posed.of`."""
        dims, some = trained.dim() - 2, learned_from(trained)
        seen = [pixels_of(noisier(some, 0.5, seed), SMOOTH[dims]) for seed in range(_DISGUISES)]
        metric = Metric.of(pixels_of(some, SMOOTH[dims]), torch.stack(seen, 1), 64)
        whose = patients.unique(return_inverse=True)[1]
        levels = torch.stack([noise(noisier(some, sd)).median().sqrt() for sd in NOISES])
        return Noisy(whose, metric, metric(pixels_of(trained, SMOOTH[dims])), levels)

    def level(self, images: Float[Tensor, "n c *space"]) -> Int[Tensor, " n"]:
        """Which of `NOISES` each image shows about; their number where it is noisier than all."""
        shown = noise(images).sqrt()
        steps = self.levels.diff() / 2
        return torch.searchsorted(self.levels + torch.cat([steps, steps[-1:]]), shown)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> Matches:
        found = [self._match(part) for part in images.split(CHUNK)]
        return Matches(torch.cat([m.similarity for m in found]), torch.cat([m.at for m in found]), found[0].first)

    def _match(self, images: Float[Tensor, "n c *space"]) -> Matches:
        dims = images.dim() - 2
        small = reduced(images, SMOOTH[dims])
        extra = (noise(images) - self.levels[0].square()).clamp_min(0) * (small[0, 0].numel() / images[0, 0].numel())
        flat = small.flatten(1)
        part = extra / (flat - flat.mean(1, keepdim=True)).square().sum(1).clamp_min(1e-9)
        best: Tensor | None = None
        for axes in mirrorings(dims):
            raw = self.metric.raw(centred(small.flip(axes)))
            of_noise = part * self.metric.directions.square().sum() / raw.square().sum(1).clamp_min(1e-9)
            likeness = normalize(raw, dim=1) @ self.codes.T / (1 - of_noise).clamp_min(_SIGNAL).sqrt()[:, None]
            best = likeness if best is None else torch.maximum(best, likeness)
        assert best is not None
        at, first = nearest(best, self.patients)
        return Matches(best.gather(1, at).clamp_max(1), at, first)


def noisier(images: Float[Tensor, "n c *space"], sd: float, seed: int = 0) -> Float[Tensor, "n c *space"]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return (images + sd * torch.randn(images.shape, generator=generator)).clamp(-1, 1) if sd else images


def noise(images: Float[Tensor, "n c *space"]) -> Float[Tensor, " n"]:
    """Variance of what is white in each image, by second differences along every axis (Immerkaer 1996, doi
    10.1006/cviu.1996.0060). Anatomy adds to it a little."""
    left = images
    for axis in range(2, images.dim()):
        size = left.shape[axis]
        before, here, after = (left.narrow(axis, start, size - 2) for start in range(3))
        left = before - 2 * here + after
    return left.square().flatten(1).mean(1) / 6 ** (images.dim() - 2)
