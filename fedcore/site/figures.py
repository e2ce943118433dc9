"""What a site keeps for its own page: small pictures and numbers, in its own folder. Nothing of it is sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from fedcore.errors import Refused
from fedcore.files.writing import write_arrays
from fedcore.site.site import Site

Arrays = dict[str, np.ndarray]
SIDE = 96
"""Pixels of the longer side of a kept image, at most."""


def keep(site: Site, file: str, arrays: Arrays) -> None:
    """Raises Refused where the site has no folder."""
    if site.folder is None:
        raise Refused("sites have no folders")
    write_arrays(site.folder / file, **arrays)


def thumbnails(images: Float[Tensor, "n c *space"], side: int = SIDE) -> UInt8[np.ndarray, "n c h w"]:
    """Images in [-1, 1], shrunk to `side` pixels at most; of a volume the middle slice, as `axial` shows it."""
    flat = axial(images, images.shape[-1] // 2) if images.dim() == 5 else images
    small = interpolate(flat.float(), size=_small(flat.shape[2:], side), mode="area")
    return ((small.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


def axial(volumes: Shaped[Tensor, "*n x y z"], at: int) -> Shaped[Tensor, "*n h w"]:
    """The slice at a place along the last axis as a viewer shows it: of volumes as `read_image` turns them, front on
    top and the patient's right at the left."""
    return volumes[..., at].flip(-1, -2).transpose(-1, -2)


def small_masks(masks: Int64[Tensor, "n h w"], side: int = SIDE) -> UInt8[np.ndarray, "n h2 w2"]:
    """The class numbers in the pixels of `thumbnails`."""
    small = interpolate(masks[:, None].float(), size=_small(masks.shape[1:], side), mode="nearest-exact")
    return small[:, 0].byte().cpu().numpy()


def _small(space: Sequence[int], side: int) -> list[int]:
    scale = min(1.0, side / max(space))
    return [max(1, round(scale * n)) for n in space]
