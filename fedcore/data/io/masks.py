"""Masks of class numbers, and masks that are turned to lie as their image does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.affine import affine_of
from fedcore.data.io.array import read_npy
from fedcore.data.io.fault import ImageFault
from fedcore.data.io.numbers import drawn_numbers
from fedcore.data.io.picture import PICTURES, read_picture
from fedcore.data.io.readers import guarded, read_stored

Meaning = Literal["class", "unlabelled"]
"""Of 255 in masks: class 1, as in pictures of yes and no, or that nobody has looked there."""


def read_mask(path: Path) -> UInt8[np.ndarray, "*space"]:
    """The numbers of a mask as its file holds them; what 255 means is for `as_classes` to say.

    A palette picture gives its indices; an axis of 3 or 4 in a .npy is space as any other. Colour and alpha are taken
    where all colours are equal. Numbers a little off whole ones, as files of floats or with a scale hold, are rounded.

    Raises:
        ImageFault: It cannot be read, was saved in a way that changes numbers, or holds other than 0 to 255.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ImageFault("zero bytes")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        values = guarded(PICTURES[suffix], lambda: read_picture(path, mask=True))
    elif suffix == ".npy":
        values = guarded("npy", lambda: read_npy(path, colours=False))
    else:
        values = read_stored(path)
    return drawn_numbers(values)


def as_classes(mask: UInt8[np.ndarray, "*space"], mask_255: Meaning) -> UInt8[np.ndarray, "*space"]:
    """Class numbers 0 to 254, 255 where nobody has looked."""
    return np.where(mask == 255, np.uint8(1), mask) if mask_255 == "class" else mask


def read_mask_of(image: Path, mask: Path, space: tuple[int, ...]) -> UInt8[np.ndarray, "*space"]:
    """The mask of an image of this shape, its axes turned and mirrored to the image's where both say how they lie:
    masks of a DICOM series may be NIfTI.

    Raises:
        ImageFault: It cannot be read, has another shape, or lies elsewhere.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

    try:
        values = read_mask(mask)
    except ImageFault as fault:
        raise ImageFault(f"mask: {fault}") from None
    here, there = affine_of(image), affine_of(mask)
    if here is not None and there is not None and values.ndim == 3:
        turn = ornt_transform(io_orientation(there), io_orientation(here))
        there = there @ inv_ornt_aff(turn, values.shape)
        values = np.ascontiguousarray(apply_orientation(values, turn))
    if values.shape != space:
        raise ImageFault(f"mask has shape {_times(values.shape)}, its image {_times(space)}; they must be equal")
    if here is not None and there is not None and not np.allclose(here, there, atol=_tolerance(here)):
        raise ImageFault("mask lies elsewhere than its image (their affines differ); resample it onto the image's grid")
    return values


def _tolerance(affine: np.ndarray) -> float:
    """A hundredth of a voxel's longest side, in mm."""
    return 0.01 * float(np.abs(affine[:3, :3]).max())


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
