"""Changes of intensities, in place, with parameters of its own for each sample.

In place because fresh memory of this size costs as much as a pass over it.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def per_sample(values: Float[Tensor, " n"], images: Float[Tensor, "n c *space"]) -> Tensor:
    """Values of shape (n,), reshaped to broadcast over channels and voxels of the samples."""
    return values.view(-1, *[1] * (images.ndim - 1))


def gamma_(images: Float[Tensor, "n c *space"], gamma: Float[Tensor, " n"]) -> None:
    """Gamma correction: x in [-1, 1] becomes 2 u^gamma - 1 with u = (x + 1) / 2."""
    u = images.mul_(0.5).add_(0.5).clamp_(0, 1)
    # exp2(gamma log2(u)) takes two thirds of the time of `pow`; u = 0 gives exp2(-inf) = 0.
    u.log2_().mul_(per_sample(gamma, images)).exp2_().mul_(2).sub_(1)


def rescale_(
    images: Float[Tensor, "n c *space"], contrast: Float[Tensor, " n"], brightness: Float[Tensor, " n"]
) -> None:
    """Contrast and brightness, not clamped: x becomes contrast (x - mean(x)) + mean(x) + brightness."""
    shift = images.flatten(1).mean(1) * (1 - contrast) + brightness
    images.mul_(per_sample(contrast, images)).add_(per_sample(shift, images))
