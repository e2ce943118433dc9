"""Patches of images: cut, randomly masked, and put back at their places (He et al. 2021, arXiv 2111.06377)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.errors import Refused


def random_masking(n: int, patches: int, mask_ratio: float, device: torch.device) -> Int[Tensor, "n visible"]:
    """Indices of the patches that stay visible, sampled for each image; at least one is visible and one masked.

    Raises:
        Refused: An image is a single patch.
    """
    if patches < 2:
        raise Refused("an image is one patch, so none can be masked; lower encoder.patch or raise data.size")
    count = min(max(int(patches * (1 - mask_ratio)), 1), patches - 1)
    return torch.rand(n, patches, device=device).argsort(dim=1)[:, :count]


def gather_tokens(
    tokens: Float[Tensor, "n patches width"], indices: Int[Tensor, "n visible"]
) -> Float[Tensor, "n visible width"]:
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


def scatter_tokens(
    tokens: Float[Tensor, "n visible width"], indices: Int[Tensor, "n visible"], fill: Float[Tensor, "n patches width"]
) -> Float[Tensor, "n patches width"]:
    """The inverse of `gather_tokens`: the tokens at their indices, `fill` everywhere else."""
    return fill.scatter(1, indices[:, :, None].expand_as(tokens), tokens)


def masked_mse(
    prediction: Float[Tensor, "n patches pixels"], target: Float[Tensor, "n patches pixels"],
    visible: Int[Tensor, "n visible"],
) -> Float[Tensor, ""]:  # fmt: skip
    """Mean squared error over the pixels of the masked patches, those that are not `visible`."""
    mask = torch.ones_like(prediction[:, :, 0]).scatter(1, visible, 0.0)
    return ((prediction - target).square().mean(2) * mask).sum() / mask.sum()


def patchify(images: Float[Tensor, "n c *space"], patch: int) -> Float[Tensor, "n patches pixels"]:
    """Each patch's pixels in a row (channels first, then along the axes), patches in the order of `ViT.tokens`."""
    dims = images.ndim - 2
    for axis in range(2, 2 + 2 * dims, 2):  # each axis in turn becomes (grid, patch)
        images = images.unflatten(axis, (-1, patch))
    grids, insides = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return images.permute(0, *grids, 1, *insides).flatten(1, dims).flatten(2)
