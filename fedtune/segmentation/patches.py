"""Patches of images and masks, cut at random and so that structures are met often enough."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedcore.data.io.class_numbers import UNLABELED


def random_patches(
    images: Float[Tensor, "n c *space"], masks: Int64[Tensor, "n *space"], size: Sequence[int], foreground: float
) -> tuple[Float[Tensor, "n c *size"], Int64[Tensor, "n *size"]]:
    """One patch an image, on the images' device; `size` must fit into `space`.

    With probability `foreground` it is centred on a random pixel of a random structure of the image, as far as the
    border allows; else, and where an image has none, it lies anywhere with equal chances. The structure is drawn first,
    so that a small one is met as often as a large one (nnU-Net: Isensee et al. 2021, Nat Methods 18:203).
    """
    if tuple(size) == tuple(images.shape[2:]):
        return images, masks
    corners = [_corner(mask, size, foreground) for mask in masks]
    windows = [tuple(slice(at, at + side) for at, side in zip(corner, size, strict=True)) for corner in corners]
    pixels = torch.stack([image[(slice(None), *window)] for image, window in zip(images, windows, strict=True)])
    return pixels, torch.stack([mask[window] for mask, window in zip(masks, windows, strict=True)])


def _one_of(rows: Int64[Tensor, "n *_"]) -> Int64[Tensor, "*_"]:
    return rows[int(torch.randint(len(rows), ()))]


def _corner(mask: Int64[Tensor, "*space"], size: Sequence[int], foreground: float) -> list[int]:
    room = [space - side for space, side in zip(mask.shape, size, strict=True)]
    if torch.rand(()) < foreground:
        structures = mask.flatten().bincount(minlength=UNLABELED)[1:UNLABELED].nonzero().flatten() + 1
        if len(structures):
            pixels = (mask == _one_of(structures)).nonzero()
            centre = _one_of(pixels).tolist()
            return [min(max(at - side // 2, 0), free) for at, side, free in zip(centre, size, room, strict=True)]
    return [int(torch.randint(free + 1, ())) for free in room]
