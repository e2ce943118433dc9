"""Any image to one size and channel count, its aspect kept: in mm where the file says how far apart its pixels are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from fedcore.data.io.limits import MOST_VOXELS
from fedcore.errors import InputError

Spacing = tuple[float, ...]
"""Between pixels, in mm along each axis."""
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def full_size(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number stands for all dimensions; raises InputError where their count or a value is wrong."""
    full = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(full) != dims or min(full) < 1:
        raise InputError(f"size must be one number or {dims} (the images are {dims}D), all positive; got {size}")
    if prod(full) > MOST_VOXELS:
        raise InputError(f"size must give at most {MOST_VOXELS:,} pixels an image; got {size}")
    return full


def require_memory(size: Sequence[int], images: int = 1) -> None:
    """Raises InputError where so many images of `size`, of one channel in single precision, exceed the machine."""
    needed, memory = 4 * math.prod(size) * images, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"{images} image{'s' * (images > 1)} of {' x '.join(map(str, size))} would take {needed / 1e9:,.0f} GB of "
            f"memory, this machine has {memory / 1e9:,.0f} GB; take a smaller size{', or fewer' * (images > 1)}"
        )


def fit(
    image: Float32[np.ndarray, "c *space"], size: tuple[int, ...], channels: int, spacing: Spacing | None = None
) -> Float32[np.ndarray, "..."]:
    """(channels, *size): resized to fit inside, centred, padded with the image's own minimum.

    Shrinking averages (no aliasing): antialiased bilinear in 2D, area in 3D. Without a spacing voxels count as cubes;
    with one they become cubes.
    """
    image = with_channels(image, channels)
    inner = inner_size(image.shape[1:], size, spacing)
    low, high = float(image.min()), float(image.max())
    if inner != image.shape[1:]:
        image = np.clip(_resized(image, inner), low, high)  # rounding may leave the range by a bit
    return np.pad(image, [(0, 0), *_margins(inner, size)], constant_values=low)


def fit_mask(
    mask: UInt8[np.ndarray, "*space"], size: tuple[int, ...], spacing: Spacing | None = None
) -> UInt8[np.ndarray, "..."]:
    """The geometry of `fit` for class numbers: nearest neighbour, padded with 0 (background)."""
    inner = inner_size(mask.shape, size, spacing)
    nearest = [((np.arange(n) + 0.5) * old / n).astype(int) for old, n in zip(mask.shape, inner, strict=True)]
    return np.pad(mask[np.ix_(*nearest)], _margins(inner, size))


def unfit(
    maps: Float[Tensor, "k *size"], space: Sequence[int], spacing: Spacing | None = None
) -> Float[Tensor, "k *space"]:
    """Maps of a fitted image (logits, say) on the grid of the image that `fit` was given: margins cut off, resized."""
    inner = inner_size(space, maps.shape[1:], spacing)
    margins = _margins(inner, maps.shape[1:])
    kept = maps[(slice(None), *(slice(low, low + side) for (low, _), side in zip(margins, inner, strict=True)))]
    mode = "bilinear" if len(space) == 2 else "trilinear"
    return F.interpolate(kept[None], tuple(space), mode=mode)[0]


def with_channels(image: Float32[np.ndarray, "c *space"], channels: int) -> Float32[np.ndarray, "channels *space"]:
    """Grey repeated to colour, colour weighed to grey; raises ValueError for any other change."""
    have = image.shape[0]
    if have == channels:
        return image
    if have == 1:
        return np.repeat(image, channels, axis=0)
    if have == 3 and channels == 1:
        return np.tensordot(_LUMINANCE, image, axes=1)[None]
    raise ValueError(f"{have} channels cannot become {channels}; set data.channels to {have}")


def inner_size(space: Sequence[int], size: Sequence[int], spacing: Spacing | None = None) -> tuple[int, ...]:
    """The largest size of the same aspect that fits."""
    mm = spacing or (1.0,) * len(space)
    # To a thousandth of the finest, so that a header's rounding errors make no image a pixel larger than its like.
    extent = [old * round(each / min(mm), 3) for old, each in zip(space, mm, strict=True)]
    factor = min(new / old for old, new in zip(extent, size, strict=True))
    return tuple(min(new, max(1, round(old * factor))) for old, new in zip(extent, size, strict=True))


def _resized(image: np.ndarray, inner: tuple[int, ...]) -> np.ndarray:
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    if len(inner) == 2:
        return F.interpolate(batch, inner, mode="bilinear", antialias=True)[0].numpy()
    smaller = tuple(map(min, inner, image.shape[1:]))  # axes that grow are interpolated after the others have shrunk
    if smaller != image.shape[1:]:
        batch = F.interpolate(batch, smaller, mode="area")
    return (batch if smaller == inner else F.interpolate(batch, inner, mode="trilinear"))[0].numpy()


def _margins(inner: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    return [((new - old) // 2, new - old - (new - old) // 2) for old, new in zip(inner, size, strict=True)]
