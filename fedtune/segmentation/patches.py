"""Random patches of images and masks, with a set probability to be centred on a structure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedcore.data.mask_classes import UNLABELED


def random_patches(
    images: Float[Tensor, "n c *space"], masks: Int64[Tensor, "n *space"], size: Sequence[int],
    foreground_probability: float,
) -> tuple[Float[Tensor, "n c *size"], Int64[Tensor, "n *size"]]:  # fmt: skip
    """One patch per image, on the images' device; `size` must fit into `space`.

    With `foreground_probability` it is centred on a random pixel of a random structure of the image, as far as the
    image border allows; otherwise, and in images without structures, its place is uniform. The structure is chosen
    first, so that small and large structures are equally frequent (nnU-Net: Isensee et al. 2021, Nat Methods 18:203).
    """
    if tuple(size) == tuple(images.shape[2:]):
        return images, masks
    corners = [_random_corner(mask, size, foreground_probability) for mask in masks]
    windows = [tuple(slice(at, at + side) for at, side in zip(corner, size, strict=True)) for corner in corners]
    pixels = torch.stack([image[(slice(None), *window)] for image, window in zip(images, windows, strict=True)])
    return pixels, torch.stack([mask[window] for mask, window in zip(masks, windows, strict=True)])


def _random_row(rows: Int64[Tensor, "n *_"]) -> Int64[Tensor, "*_"]:
    return rows[int(torch.randint(len(rows), ()))]


def _random_corner(mask: Int64[Tensor, "*space"], size: Sequence[int], foreground_probability: float) -> list[int]:
    """The patch's first pixel along each axis."""
    highest = [space - side for space, side in zip(mask.shape, size, strict=True)]
    if torch.rand(()) < foreground_probability:
        structures = mask.flatten().bincount(minlength=UNLABELED)[1:UNLABELED].nonzero().flatten() + 1
        if len(structures):
            pixels = (mask == _random_row(structures)).nonzero()
            centre = _random_row(pixels).tolist()
            return [min(max(at - side // 2, 0), most) for at, side, most in zip(centre, size, highest, strict=True)]
    return [int(torch.randint(most + 1, ())) for most in highest]
