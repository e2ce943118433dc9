"""One row of the manifest to the arrays that are kept of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, UInt8

from fedcore.data.geometry import fit, fit_mask
from fedcore.data.manifest import Row
from fedcore.data.readers import ImageFault, read_image, read_mask
from fedcore.data.scaling import Scaling

UNLABELED = 255
"""The mask value of pixels nobody has labelled, and of every pixel of an image without a mask."""


@dataclass(frozen=True)
class Decoding:
    """How images become arrays; with the files' content it decides whether a cache still holds."""

    scaling: Scaling
    size: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class Decoded:
    """One image in [-1, 1] and its mask; `constant` where every pixel has one value."""

    pixels: Float16[np.ndarray, "c *space"]
    mask: UInt8[np.ndarray, "*space"] | None
    constant: bool


def decode(row: Row, how: Decoding) -> Decoded:
    """Reads, scales and fits one image.

    Scaled before it is fitted: padding and smoothing must not move the percentiles.

    Raises:
        ImageFault: unreadable, of other dimensions than the rest, or a mask of another shape.
    """
    raw = read_image(row.image, row.member, row.index)
    dims = raw.ndim - 1
    if dims != len(how.size):
        raise ImageFault(f"a {dims}D image among {len(how.size)}D ones; put them in manifests of their own")
    if raw.shape[0] not in (1, how.channels) and (raw.shape[0], how.channels) != (3, 1):
        raise ImageFault(f"{raw.shape[0]} channels cannot become {how.channels}")
    pixels = fit(how.scaling(raw), how.size, how.channels).astype(np.float16)
    return Decoded(pixels, _mask(row, raw.shape[1:], how.size), bool(raw.min() == raw.max()))


def _mask(row: Row, space: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray | None:
    if row.mask is None:
        return None
    try:
        mask = read_mask(row.mask)
    except ImageFault as fault:
        raise ImageFault(f"mask: {fault}") from None
    if mask.shape != space:
        raise ImageFault(f"mask has shape {_times(mask.shape)}, its image {_times(space)}; they must be equal")
    return fit_mask(mask, size)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
