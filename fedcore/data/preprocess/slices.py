"""Volumes cut into slices, and where in its volume a slice lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int64, Num, UInt8

from fedcore.data.io.grid import picture
from fedcore.data.preprocess.geometry import Spacing, fit, fit_mask

T = TypeVar("T")


def planes(volume: Num[np.ndarray, "*c d h w"], axis: int, ras: bool) -> Num[np.ndarray, "slices *c h2 w2"]:
    """The slices along spatial `axis`, from its first place to its last: a view, through which they can be written too.

    Of a volume in RAS they are as a viewer shows them, else as they are stored.
    """
    slices = np.moveaxis(volume, axis - 3, 0)
    return picture(slices) if ras else slices


def plane_of(sides: Sequence[T], axis: int, ras: bool) -> tuple[T, ...]:
    """Of what a volume has along each spatial axis, what its `planes` have along theirs."""
    kept = tuple(side for at, side in enumerate(sides) if at != axis)
    return kept[::-1] if ras else kept


def cut(
    volume: Float32[np.ndarray, "c d h w"], axis: int, size: tuple[int, ...], spacing: Spacing | None = None,
    ras: bool = False,
) -> Float32[np.ndarray, "slices c h2 w2"]:  # fmt: skip
    """The `planes` along an axis, all fitted alike into `size` and padded with the volume's minimum.

    `spacing` is that of the pixels of a slice.
    """
    slices = planes(volume, axis, ras)
    stacked = slices.reshape(-1, *slices.shape[2:])  # as channels of one picture: resized in one go
    return fit(stacked, size, len(stacked), spacing).reshape(*slices.shape[:2], *size)


def cut_mask(
    mask: UInt8[np.ndarray, "d h w"], axis: int, size: tuple[int, ...], spacing: Spacing | None = None,
    ras: bool = False,
) -> UInt8[np.ndarray, "slices h2 w2"]:  # fmt: skip
    """The class numbers of the same slices."""
    return np.stack([fit_mask(part, size, spacing) for part in planes(mask, axis, ras)])


def not_empty(slices: Num[np.ndarray, "slices c h w"]) -> Int64[np.ndarray, " shown"]:
    """Places of the slices that hold more than one value."""
    flat = slices.reshape(len(slices), -1)
    return np.flatnonzero(flat.min(axis=1) < flat.max(axis=1))


def between_ends(values: Num[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Linearly to [0, 1], the least value to 0 and the greatest to 1; 0.5 where there is but one value.

    So positions of volumes of other lengths, units and origins can be compared. That a slice alone lies in
    the middle is our choice.
    """
    values = values.astype(np.float64)
    if len(values) == 0 or values.min() == values.max():
        return np.full(len(values), 0.5, np.float32)
    return ((values - values.min()) / (values.max() - values.min())).astype(np.float32)


def emptied(site: str, count: int) -> list[str]:
    """A note on slices left out, if there are any."""
    return [f"site '{site}': empty slices left out: {count}"] if count else []
