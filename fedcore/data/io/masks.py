"""Masks of class numbers, and masks that are turned to lie as their image does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.affine import grid_of
from fedcore.data.io.array import read_npy
from fedcore.data.io.dicom.seg import read_segments, segmentation_in, segments_on
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid
from fedcore.data.io.mask_numbers import drawn_numbers
from fedcore.data.io.pictures.picture import PICTURES, read_picture
from fedcore.data.io.readers import guarded, kind_of, read_stored

Meaning = Literal["class", "unlabelled"]
"""Of 255 in masks: class 1, as in pictures of yes and no, or that nobody has looked there."""


def read_mask(path: Path) -> UInt8[np.ndarray, "*space"]:
    """The numbers of a mask as its file holds them; what 255 means is for `as_classes` to say.

    A palette picture gives its indices; an axis of 3 or 4 in a .npy is space as any other. Colour and alpha are taken
    where all colours are equal. Numbers a little off whole ones, as files of floats or with a scale hold, are rounded.

    Raises:
        ImageError: It cannot be read, was saved in a way that changes numbers, or holds other than 0 to 255.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError("zero bytes")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        values = guarded(PICTURES[suffix], lambda: read_picture(path, mask=True))
    elif suffix == ".npy":
        values = guarded("npy", lambda: read_npy(path, colours=False))
    elif (seg := segmentation_in(path)) is not None:
        segments, grid = read_segments(seg)
        return np.ascontiguousarray(grid.turned(segments[None])[0])
    else:
        values = read_stored(path)
    return drawn_numbers(values)


def as_classes(mask: UInt8[np.ndarray, "*space"], mask_255: Meaning) -> UInt8[np.ndarray, "*space"]:
    """Class numbers 0 to 254, 255 where nobody has looked."""
    return np.where(mask == 255, np.uint8(1), mask) if mask_255 == "class" else mask


def read_mask_of(image: Path, mask: Path, space: tuple[int, ...]) -> UInt8[np.ndarray, "*space"]:
    """The mask of an image, on the axes of `read_image`, which gave the image this shape.

    Where both say where they lie the mask is turned to its image, whatever order of voxels it is stored in. A mask that
    says nothing of it (.npy, a picture, NIfTI without an affine), or whose image does not, has its voxels in the order
    of the image's file, and is turned as that is: of NIfTI as nibabel gives them, of DICOM (slice, row, column) with
    slices by their place along the normal, (row, column) of one slice.

    Raises:
        ImageError: It cannot be read, has another shape, or lies elsewhere.
    """
    try:
        values = _placed(image, mask)
    except ImageError as fault:
        raise ImageError(f"mask: {fault}") from None
    if values.shape != space:
        raise ImageError(f"mask has shape {_times(values.shape)}, its image {_times(space)}; they must be equal")
    return values


def _placed(image: Path, mask: Path) -> UInt8[np.ndarray, "*space"]:
    here = grid_of(image)
    if (seg := segmentation_in(mask)) is not None:
        if here is None or here.affine is None:
            raise ImageError("a DICOM SEG, and its image does not say where it lies; save it as .npy")
        return np.ascontiguousarray(here.turned(segments_on(seg, image, here)[None])[0])
    values, there = read_mask(mask), grid_of(mask)
    if there is None or there.affine is None:
        return values if here is None else _turned(here, values if there is None else there.stored(values))
    if here is not None and here.affine is not None:
        if here.turned_space == there.turned_space and not here.lies_as(there):
            raise ImageError("lies elsewhere than its image (their affines differ); resample it onto the image's grid")
        return values
    # Of one slice that lies somewhere `read_mask` makes what a viewer shows, which is what pictures are.
    if values.ndim == 2 and kind_of(image) != "NIfTI":
        return values
    stored = there.stored(values)
    return stored if here is None else _turned(here, stored)


def _turned(grid: Grid, stored: UInt8[np.ndarray, "*stored"]) -> UInt8[np.ndarray, "*space"]:
    """Turned as the image is; as it is where it has another shape, which `read_mask_of` tells."""
    if [side for side in stored.shape if side > 1] != [side for side in grid.space if side > 1]:
        return stored
    return np.ascontiguousarray(grid.turned(stored.reshape(1, *grid.space))[0])


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
