"""Whether the values of a mask are numbers that somebody drew, or what saving and resampling made of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.error import ImageError

TOLERANCE = 0.05
"""Off a whole number, up to which a value is rounded: floats stored in 8 bits and a scale are off by a part of it."""
_MANY = 8
_HIGH = 64
"""Below it numbers of single pixels may be landmarks."""
_SHOWN = 5
_SMALL = 1024
"""Pixels up to which numbers may all stand alone: nothing has an area then."""


def drawn_numbers(values: np.ndarray) -> UInt8[np.ndarray, "*space"]:
    """Of a mask as read, (c, *space).

    Raises:
        ImageError: Colours that differ, other values than whole numbers from 0 to 255, or numbers that crowd.
    """
    if values.size == 0:
        raise ImageError("empty (0 pixels)")
    if values.dtype.kind not in "buif":
        raise ImageError(f"values must be real numbers, got {values.dtype.name}")
    if (values != values[:1]).any() and not np.isnan(values).any():
        raise ImageError("in colour; a mask holds one class number a pixel")
    numbers = _whole(values[0])
    _require_drawn(numbers)
    return numbers


def _whole(values: np.ndarray) -> UInt8[np.ndarray, "*space"]:
    if values.dtype in (np.uint8, np.bool_):
        return values.astype(np.uint8)
    nearest = np.rint(values)
    with np.errstate(invalid="ignore"):
        right = (nearest >= 0) & (nearest <= 255) & (np.abs(values - nearest) <= TOLERANCE)
    if right.all():
        return nearest.astype(np.uint8)
    found = np.unique(values[~right])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    met = ", ".join(f"{value:.6g}" for value in found[:_SHOWN])
    raise ImageError(f"values must be whole numbers in 0..255, found {met}{more}; {_advice(found)}")


def _advice(found: np.ndarray) -> str:
    if not np.isfinite(found).all():
        return "give every pixel a number"
    if (found % 1).any():
        return "resample masks by nearest neighbour"
    return "number the classes from 0 (background) to 254; 255 is where nobody has looked"


def _require_drawn(numbers: UInt8[np.ndarray, "*space"]) -> None:
    """Raises ImageError for more than a few numbers most of which nowhere fill a square of 2 x 2 pixels.

    What somebody drew has an area. The border of a mask that was smoothed, resampled or once a JPEG holds dozens of
    numbers, each in single pixels.
    """
    met = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256))
    if len(met) <= _MANY or met[-2] < _HIGH or numbers.ndim < 2:
        return
    corner = numbers[..., 1:, 1:]
    square = (corner == numbers[..., :-1, 1:]) & (corner == numbers[..., 1:, :-1]) & (corner == numbers[..., :-1, :-1])
    areas = np.unique(corner[square])
    if 2 * len(areas) < len(met) and (len(areas) or numbers.size > _SMALL):
        raise ImageError(
            f"{len(met)} numbers from {met[0]} to {met[-1]}, {len(met) - len(areas)} of them nowhere of 2 x 2 pixels, "
            "as after smoothing, resampling or JPEG; save the original, resampled by nearest neighbour alone, as PNG"
        )
