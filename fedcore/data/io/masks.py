"""Masks of class numbers, and masks that are turned to lie as their image does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.affine import affine_of
from fedcore.data.io.array import read_npy
from fedcore.data.io.fault import ImageFault
from fedcore.data.io.picture import PICTURES, read_picture
from fedcore.data.io.readers import checked, guarded, read_image


def read_mask(path: Path) -> UInt8[np.ndarray, "*space"]:
    """Class numbers 0..254 per pixel, 255 unlabelled; a mask of just 0 and 255 is a yes/no picture: 0 and 1.

    A palette picture gives its indices; an axis of 3 or 4 in a .npy is space as any other. Raises ImageFault also when
    a value is no whole number in 0..255.
    """
    if path.suffix.lower() in PICTURES:
        values = checked(guarded("mask", lambda: read_picture(path, palette=True)))
    elif path.suffix.lower() == ".npy":
        values = checked(guarded("npy", lambda: read_npy(path, colours=False)))
    else:
        values = read_image(path)
    if (values != values[:1]).any():
        raise ImageFault("mask in colour; a mask holds one class number a pixel")
    with np.errstate(invalid="ignore"):
        labels = np.asarray(values[0].astype(np.uint8))
    if (labels != values[0]).any():
        raise ImageFault("mask values must be whole numbers in 0..255")
    return labels // np.uint8(255) if np.isin(labels, (0, 255)).all() else labels


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
