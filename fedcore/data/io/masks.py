"""Masks: their class numbers, in the orientation of their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.affine import grid_of
from fedcore.data.io.array import read_npy
from fedcore.data.io.class_numbers import class_numbers
from fedcore.data.io.dicom.seg import read_segments, segmentation_in, segments_on
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid
from fedcore.data.io.pictures.picture import PICTURES, read_picture
from fedcore.data.io.readers import guarded, kind_of, read_stored


def read_mask(path: Path) -> UInt8[np.ndarray, "*space"]:
    """The numbers of a mask as in its file; `as_classes` decides the meaning of 255.

    A palette picture gives its indices. An axis of 3 or 4 in a .npy is a spatial one. RGB and alpha are accepted if all
    colour channels are equal. Numbers close to whole ones, as in files of floats or with a scale, are rounded.

    Raises:
        ImageError: It cannot be read, was saved in a way that changes numbers, or contains others than 0 to 255.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError("zero bytes")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        values = guarded(PICTURES[suffix], lambda: read_picture(path, mask=True))
    elif suffix == ".npy":
        values = guarded("npy", lambda: read_npy(path, channels=False))
    elif (seg := segmentation_in(path)) is not None:
        segments, grid = read_segments(seg)
        return np.ascontiguousarray(grid.to_ras(segments[None])[0])
    else:
        values = read_stored(path)
    return class_numbers(values)


def read_mask_for(image: Path, mask: Path, space: tuple[int, ...]) -> UInt8[np.ndarray, "*space"]:
    """The mask of an image, with the axes of `read_image`, which returned the image with the shape `space`.

    If both files contain an affine, the mask is reoriented to its image, whatever its order of voxels. If one of them
    lacks it (.npy, a picture, NIfTI without an affine), the mask's voxels must be in the order of the image's file:
    for NIfTI as nibabel reads them, for DICOM (slice, row, column) with slices sorted by position along the normal,
    (row, column) for one slice.

    Raises:
        ImageError: It cannot be read, or its shape or position differs from the image's.
    """
    try:
        values = _on_image(image, mask)
    except ImageError as error:
        raise ImageError(f"mask: {error}") from None
    if values.shape != space:
        raise ImageError(f"mask has shape {_times(values.shape)}, its image {_times(space)}; they must be equal")
    return values


def _on_image(image: Path, mask: Path) -> UInt8[np.ndarray, "*space"]:
    own = grid_of(image)
    if (seg := segmentation_in(mask)) is not None:
        if own is None or own.affine is None:
            raise ImageError("a DICOM SEG, but its image has no position in space; save the mask as .npy")
        return np.ascontiguousarray(own.to_ras(segments_on(seg, image, own)[None])[0])
    values, grid = read_mask(mask), grid_of(mask)
    if grid is None or grid.affine is None:
        return values if own is None else _reoriented(own, values if grid is None else grid.from_ras(values))
    if own is not None and own.affine is not None:
        if own.ras_shape == grid.ras_shape and not own.same_position(grid):
            raise ImageError("its position differs from the image's (their affines differ); resample it onto the image")
        return values
    # Of one slice with an affine `read_mask` returns what a viewer shows, and pictures are stored that way.
    if values.ndim == 2 and kind_of(image) != "NIfTI":
        return values
    stored = grid.from_ras(values)
    return stored if own is None else _reoriented(own, stored)


def _reoriented(grid: Grid, stored: UInt8[np.ndarray, "*stored"]) -> UInt8[np.ndarray, "*space"]:
    """Reoriented as the image; unchanged if its shape differs, which `read_mask_for` reports."""
    if [side for side in stored.shape if side > 1] != [side for side in grid.shape if side > 1]:
        return stored
    return np.ascontiguousarray(grid.to_ras(stored.reshape(1, *grid.shape))[0])


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
