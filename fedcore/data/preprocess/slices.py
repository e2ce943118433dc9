"""Volumes cut into slices, and the position of a slice in its volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int64, Num, UInt8

from fedcore.data.io.grid import as_displayed
from fedcore.data.preprocess.geometry import Spacing, fit, fit_mask

T = TypeVar("T")


def volume_slices(volume: Num[np.ndarray, "*c d h w"], axis: int, ras: bool) -> Num[np.ndarray, "slices *c h2 w2"]:
    """The slices along spatial `axis`, from first to last: a view, which can also be written to.

    Of a volume in RAS they are oriented as a viewer shows them, else as they are stored.
    """
    slices = np.moveaxis(volume, axis - 3, 0)
    return as_displayed(slices) if ras else slices


def in_slice(values: Sequence[T], axis: int, ras: bool) -> tuple[T, ...]:
    """Of one value per spatial axis of a volume, those of its `volume_slices`."""
    kept = tuple(value for at, value in enumerate(values) if at != axis)
    return kept[::-1] if ras else kept


def cut_slices(
    volume: Float32[np.ndarray, "c d h w"], axis: int, size: tuple[int, ...], spacing: Spacing | None = None,
    ras: bool = False,
) -> Float32[np.ndarray, "slices c h2 w2"]:  # fmt: skip
    """The slices along an axis, all resized alike into `size` and padded with the volume's minimum.

    `spacing` is that of the pixels of a slice.
    """
    slices = volume_slices(volume, axis, ras)
    as_channels = slices.reshape(-1, *slices.shape[2:])  # of one picture: resized at once
    return fit(as_channels, size, len(as_channels), spacing).reshape(*slices.shape[:2], *size)


def cut_mask_slices(
    mask: UInt8[np.ndarray, "d h w"], axis: int, size: tuple[int, ...], spacing: Spacing | None = None,
    ras: bool = False,
) -> UInt8[np.ndarray, "slices h2 w2"]:  # fmt: skip
    """The class numbers of the same slices."""
    return np.stack([fit_mask(slice_, size, spacing) for slice_ in volume_slices(mask, axis, ras)])


def non_empty_slices(slices: Num[np.ndarray, "slices c h w"]) -> Int64[np.ndarray, " kept"]:
    """Indices of the slices with more than one value."""
    flat = slices.reshape(len(slices), -1)
    return np.flatnonzero(flat.min(axis=1) < flat.max(axis=1))


def normalise_positions(values: Num[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Linearly to [0, 1], the least value to 0 and the greatest to 1; 0.5 for a single value.

    So positions are comparable between volumes of different lengths, units and origins. That a single slice lies in
    the middle is our choice.
    """
    values = values.astype(np.float64)
    if len(values) == 0 or values.min() == values.max():
        return np.full(len(values), 0.5, np.float32)
    return ((values - values.min()) / (values.max() - values.min())).astype(np.float32)


def empty_slice_warnings(site: str, count: int) -> list[str]:
    """A warning on slices left out, if there are any."""
    return [f"site '{site}': empty slices left out: {count}"] if count else []
