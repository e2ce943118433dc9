"""Gaussian blur with a sigma of its own for each sample, in 2D and 3D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def blur_weights(sigma: Float[Tensor, " n"], size: int, reach: int) -> Float[Tensor, "offsets n size"]:
    """Gaussian weights of the voxels at offsets -reach to reach from each of `size` voxels.

    They sum to 1 over the offsets, also at the border: voxels outside the image have weight 0.
    """
    offset = torch.arange(-reach, reach + 1, device=sigma.device)[:, None, None]
    position = torch.arange(size, device=sigma.device) + offset
    exponent = offset**2 * (-0.5 / sigma**2)[:, None]
    return torch.where((position < 0) | (position >= size), -torch.inf, exponent).softmax(0)


def blur(images: Float[Tensor, "n c *space"], sigma: Float[Tensor, " n"], reach: int) -> Float[Tensor, "n c *space"]:
    """Gaussian blur with a sigma (voxels) for each sample, cut off at `reach` voxels: at 4 sigma 3e-6 is lost.

    Axis by axis as a sum of shifted images: a third of the time of a matrix product at 128 x 128 and, unlike grouped
    convolutions, no slower in volumes.
    """
    for axis, size in enumerate(images.shape[2:], 2):
        later = images.ndim - 1 - axis
        weights = blur_weights(sigma, size, reach)
        weights = weights.view(*weights.shape[:2], *[1] * (axis - 1), size, *[1] * later)
        padded = F.pad(images, [0, 0] * later + [reach, reach])
        images = padded.narrow(axis, 0, size) * weights[0]
        for offset in range(1, 2 * reach + 1):
            images.addcmul_(padded.narrow(axis, offset, size), weights[offset])
    return images
