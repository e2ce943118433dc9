"""Any image to one size and channel count, its aspect kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from fedcore.errors import InputError

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def full_size(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number stands for all dimensions; raises InputError where their count or a value is wrong."""
    full = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(full) != dims or min(full) < 1:
        raise InputError(f"size must be one number or {dims} (the images are {dims}D), all positive; got {size}")
    return full


def fit(image: Float32[np.ndarray, "c *space"], size: tuple[int, ...], channels: int) -> Float32[np.ndarray, "..."]:
    """(channels, *size): resized to fit inside, centred, padded with the image's own minimum.

    Shrinking averages (no aliasing): antialiased bilinear in 2D, area in 3D. Voxels count as cubes.
    """
    image = with_channels(image, channels)
    inner = inner_size(image.shape[1:], size)
    low, high = float(image.min()), float(image.max())
    if inner != image.shape[1:]:
        image = np.clip(_resized(image, inner), low, high)  # rounding may leave the range by a bit
    return np.pad(image, [(0, 0), *_margins(inner, size)], constant_values=low)


def fit_mask(mask: UInt8[np.ndarray, "*space"], size: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """The geometry of `fit` for class numbers: nearest neighbour, padded with 0 (background)."""
    inner = inner_size(mask.shape, size)
    nearest = [((np.arange(n) + 0.5) * old / n).astype(int) for old, n in zip(mask.shape, inner, strict=True)]
    return np.pad(mask[np.ix_(*nearest)], _margins(inner, size))


def unfit(maps: Float[Tensor, "k *size"], space: Sequence[int]) -> Float[Tensor, "k *space"]:
    """Maps of a fitted image (logits, say) on the grid of the image that `fit` was given: margins cut off, resized."""
    inner = inner_size(space, maps.shape[1:])
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


def inner_size(space: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """The largest size of the same aspect that fits."""
    factor = min(new / old for old, new in zip(space, size, strict=True))
    return tuple(min(new, max(1, round(old * factor))) for old, new in zip(space, size, strict=True))


def _resized(image: np.ndarray, inner: tuple[int, ...]) -> np.ndarray:
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    if len(inner) == 2:
        return F.interpolate(batch, inner, mode="bilinear", antialias=True)[0].numpy()
    if inner[0] < image.shape[1]:
        return F.interpolate(batch, inner, mode="area")[0].numpy()
    return F.interpolate(batch, inner, mode="trilinear")[0].numpy()


def _margins(inner: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    return [((new - old) // 2, new - old - (new - old) // 2) for old, new in zip(inner, size, strict=True)]
