"""Resizes any image to one size and number of channels with its aspect kept, in mm if its pixel spacing is known."""

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

from fedcore.data.io.limits import MAX_VOXELS
from fedcore.errors import InputError

Spacing = tuple[float, ...]
"""Distance of pixels in mm along each axis."""
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def full_size(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """The size of each axis, from one number for all of them or one for each. Raises InputError for invalid ones."""
    full = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(full) != dims or min(full) < 1:
        raise InputError(f"size must be one number or {dims} (the images are {dims}D), all positive; got {size}")
    if prod(full) > MAX_VOXELS:
        raise InputError(f"size must give at most {MAX_VOXELS:,} pixels per image; got {size}")
    return full


def require_memory(size: Sequence[int], images: int = 1) -> None:
    """Raises InputError if so many images of one channel in float32 need more memory than the machine has."""
    needed, memory = 4 * math.prod(size) * images, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"{images} image{'s' * (images > 1)} of {' x '.join(map(str, size))} would take {needed / 1e9:,.0f} GB of "
            f"memory, this machine has {memory / 1e9:,.0f} GB; use a smaller size{', or fewer' * (images > 1)}"
        )


def fit(
    image: Float32[np.ndarray, "c *space"], size: tuple[int, ...], channels: int, spacing: Spacing | None = None
) -> Float32[np.ndarray, "..."]:
    """(channels, *size): resized to fit inside, centred, padded with the minimum of the image.

    Downsampling averages (no aliasing): antialiased bilinear in 2D, area in 3D. With a spacing voxels become cubes;
    without one they are taken for cubes.
    """
    image = with_channels(image, channels)
    inner = inner_size(image.shape[1:], size, spacing)
    low, high = float(image.min()), float(image.max())
    if inner != image.shape[1:]:
        image = np.clip(_resized(image, inner), low, high)  # rounding errors may exceed the range
    return np.pad(image, [(0, 0), *_margins(inner, size)], constant_values=low)


def fit_mask(
    mask: UInt8[np.ndarray, "*space"], size: tuple[int, ...], spacing: Spacing | None = None
) -> UInt8[np.ndarray, "..."]:
    """As `fit`, for class numbers: nearest neighbour, padded with 0 (background)."""
    inner = inner_size(mask.shape, size, spacing)
    nearest = [((np.arange(n) + 0.5) * old / n).astype(int) for old, n in zip(mask.shape, inner, strict=True)]
    return np.pad(mask[np.ix_(*nearest)], _margins(inner, size))


def unfit(
    maps: Float[Tensor, "k *size"], space: Sequence[int], spacing: Spacing | None = None
) -> Float[Tensor, "k *space"]:
    """The inverse of `fit` for maps (such as logits): margins are removed, then maps are resized to `space`."""
    inner = inner_size(space, maps.shape[1:], spacing)
    margins = _margins(inner, maps.shape[1:])
    kept = maps[(slice(None), *(slice(low, low + side) for (low, _), side in zip(margins, inner, strict=True)))]
    mode = "bilinear" if len(space) == 2 else "trilinear"
    return F.interpolate(kept[None], tuple(space), mode=mode)[0]


def with_channels(image: Float32[np.ndarray, "c *space"], channels: int) -> Float32[np.ndarray, "channels *space"]:
    """Greyscale is repeated to RGB, RGB becomes luminance; raises ValueError for any other change."""
    have = image.shape[0]
    if have == channels:
        return image
    if have == 1:
        return np.repeat(image, channels, axis=0)
    if have == 3 and channels == 1:
        return np.tensordot(_LUMINANCE, image, axes=1)[None]
    raise ValueError(f"{have} channels cannot become {channels}; set data.channels to {have}")


def inner_size(space: Sequence[int], size: Sequence[int], spacing: Spacing | None = None) -> tuple[int, ...]:
    """The largest size of the same aspect that fits into `size`."""
    mm = spacing or (1.0,) * len(space)
    # Rounded to a thousandth of the finest, so that rounding errors of a header do not make an image a pixel larger.
    extent = [old * round(each / min(mm), 3) for old, each in zip(space, mm, strict=True)]
    factor = min(new / old for old, new in zip(extent, size, strict=True))
    return tuple(min(new, max(1, round(old * factor))) for old, new in zip(extent, size, strict=True))


def _resized(image: np.ndarray, inner: tuple[int, ...]) -> np.ndarray:
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    if len(inner) == 2:
        return F.interpolate(batch, inner, mode="bilinear", antialias=True)[0].numpy()
    smaller = tuple(map(min, inner, image.shape[1:]))  # axes that grow are interpolated after the others were reduced
    if smaller != image.shape[1:]:
        batch = F.interpolate(batch, smaller, mode="area")
    return (batch if smaller == inner else F.interpolate(batch, inner, mode="trilinear"))[0].numpy()


def _margins(inner: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    return [((new - old) // 2, new - old - (new - old) // 2) for old, new in zip(inner, size, strict=True)]
