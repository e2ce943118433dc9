"""The numbers of masks: classes 0 (background) to 254, and 255 for class 1 or for pixels that are not annotated.

Also checks that the values of a file are numbers that somebody drew, not the result of smoothing or resampling.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.error import ImageError
from fedcore.data.mask_classes import MAX_CLASS, UNLABELED, Mask255

TOLERANCE = 0.05
"""Largest distance to a whole number at which a value is rounded, as of floats stored in 8 bits with a scale."""
_MANY = 8
_HIGH = 64
"""Lower numbers of single pixels may be landmarks."""
_SHOWN = 5
_SMALL = 1024
"""Pixels of a mask so small that all its numbers may be single pixels."""


def as_classes(mask: UInt8[np.ndarray, "*space"], mask_255: Mask255) -> UInt8[np.ndarray, "*space"]:
    """Class numbers 0 to 254, and `UNLABELED` where not annotated, from the numbers of a file."""
    return np.where(mask == UNLABELED, np.uint8(1), mask) if mask_255 == "class" else mask


def class_numbers(values: np.ndarray) -> UInt8[np.ndarray, "*space"]:
    """The numbers of a mask as read, (c, *space).

    Raises:
        ImageError: Channels differ, values are not whole numbers from 0 to 255, or numbers look resampled.
    """
    if values.size == 0:
        raise ImageError("empty (0 pixels)")
    if values.dtype.kind not in "buif":
        raise ImageError(f"values must be real numbers, got {values.dtype.name}")
    if (values != values[:1]).any() and not np.isnan(values).any():
        raise ImageError("in colour; a mask must contain one class number per pixel")
    numbers = _whole(values[0])
    _require_areas(numbers)
    return numbers


def _whole(values: np.ndarray) -> UInt8[np.ndarray, "*space"]:
    if values.dtype in (np.uint8, np.bool_):
        return values.astype(np.uint8)
    nearest = np.rint(values)
    with np.errstate(invalid="ignore"):
        right = (nearest >= 0) & (nearest <= UNLABELED) & (np.abs(values - nearest) <= TOLERANCE)
    if right.all():
        return nearest.astype(np.uint8)
    found = np.unique(values[~right])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    shown = ", ".join(f"{value:.6g}" for value in found[:_SHOWN])
    raise ImageError(f"values must be whole numbers in 0..{UNLABELED}, found {shown}{more}; {_advice(found)}")


def _advice(found: np.ndarray) -> str:
    if not np.isfinite(found).all():
        return "give every pixel a number"
    if (found % 1).any():
        return "resample masks by nearest neighbour"
    return f"number the classes from 0 (background) to {MAX_CLASS}; {UNLABELED} means not annotated"


def _require_areas(numbers: UInt8[np.ndarray, "*space"]) -> None:
    """Raises ImageError for many numbers of which most nowhere fill a square of 2 x 2 pixels.

    A drawn structure has an area. The border of a mask that was smoothed, resampled or saved as JPEG contains dozens
    of numbers, each in single pixels.
    """
    found = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256))
    if len(found) <= _MANY or found[-2] < _HIGH or numbers.ndim < 2:
        return
    corner = numbers[..., 1:, 1:]
    square = (corner == numbers[..., :-1, 1:]) & (corner == numbers[..., 1:, :-1]) & (corner == numbers[..., :-1, :-1])
    areas = np.unique(corner[square])
    if 2 * len(areas) < len(found) and (len(areas) or numbers.size > _SMALL):
        raise ImageError(
            f"{len(found)} numbers from {found[0]} to {found[-1]}, {len(found) - len(areas)} of them nowhere in "
            "2 x 2 pixels, as after smoothing, resampling or JPEG; save the original, resampled by nearest neighbour "
            "only, as PNG"
        )
