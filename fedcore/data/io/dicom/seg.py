"""DICOM SEG, as masks: segments become class numbers by their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.dicom.frames import required
from fedcore.data.io.dicom.image import SEGMENTATIONS, is_dicom, kind_of_object
from fedcore.data.io.dicom.series import headers
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import CANONICAL, Grid
from fedcore.data.io.readers import guarded, kind_of

_MOST = 254
"""255 stands for what nobody has looked at."""
_NEAR = 0.1
"""How far a voxel may lie from one of the image, in voxels."""


def segmentation_in(path: Path) -> Path | None:
    """The file itself, or the only file of a folder, where it is a segmentation."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        return segmentation_in(files[0]) if len(files) == 1 and guarded("DICOM", lambda: is_dicom(files[0])) else None
    if not (path.is_file() and kind_of(path) == "DICOM"):
        return None
    file = guarded("DICOM", lambda: required(path, specific_tags=["SOPClassUID"]))
    return path if kind_of_object(file) in SEGMENTATIONS else None


def read_segments(path: Path) -> tuple[UInt8[np.ndarray, "d h w"], Grid]:
    """Class numbers (slice, row, column) of the part of space that the file covers; what it leaves out between its
    frames is background.

    Raises:
        ImageError: Segments are fractional, overlap, or are more than class numbers; frames are no even stack.
    """
    return guarded("DICOM SEG", lambda: _segments(path))


def segments_on(path: Path, image: Path, grid: Grid) -> UInt8[np.ndarray, "i j k"]:
    """Class numbers in the order of the voxels of an image that lies somewhere; what no frame covers is background.

    Raises:
        ImageError: The file is of another space (frame of reference) than its image, or of other voxels.
    """
    from nibabel.orientations import apply_orientation, ornt_transform

    values, own = read_segments(path)
    if kind_of(image).startswith("DICOM"):
        spaces = {str(_frame_of(each)) for each in (path, image)} - {"None", ""}
        if len(spaces) > 1:
            raise ImageError("of another frame of reference than its image; take the one that was drawn on this series")
    laid = np.zeros(grid.turned_space, np.uint8)
    laid[np.ix_(*_places(own, grid))] = apply_orientation(values, own.turn)
    return np.ascontiguousarray(apply_orientation(laid, ornt_transform(CANONICAL, grid.turn)))


def _places(own: Grid, grid: Grid) -> list[np.ndarray]:
    """Along each axis of RAS, at which of the image's voxels those of the segmentation lie."""
    here, there = grid.turned_affine, own.turned_affine
    assert here is not None, "only images that lie somewhere are asked for"
    assert there is not None, "frames of a segmentation lie somewhere"
    to_here = np.linalg.inv(here) @ there
    steps, sides = np.diag(to_here)[:3], np.array(own.turned_space)
    lines = [start + step * np.arange(side) for start, step, side in zip(to_here[:3, 3], steps, sides, strict=True)]
    across = int(own.turn[0, 0])  # along this axis frames may lie several of the image's slices apart
    skew = np.abs((to_here[:3, :3] - np.diag(steps)) * (sides - 1)).max()
    stretch = np.abs((np.delete(steps, across) - 1) * (np.delete(sides, across) - 1)).max()
    if max(skew, stretch, *(np.abs(line - line.round()).max() for line in lines)) > _NEAR:
        raise ImageError("of other voxels than its image; resample it onto the image's grid")
    places = [line.round().astype(int) for line in lines]
    if any(line.min() < 0 or line.max() >= side for line, side in zip(places, grid.turned_space, strict=True)):
        raise ImageError("partly outside its image; take the one that was drawn on this series")
    return places


def _segments(path: Path) -> tuple[np.ndarray, Grid]:
    from highdicom.seg import segread

    file = segread(path)
    if file.SegmentationType == "FRACTIONAL":
        raise ImageError("a fractional segmentation; save it as BINARY or LABELMAP, with a threshold of your choice")
    if (most := max(file.segment_numbers)) > _MOST:
        raise ImageError(f"segment number {most}; class numbers go to {_MOST}")
    try:
        found: Any = file.get_volume(combine_segments=True, dtype=np.uint8)
    except RuntimeError as error:
        overlap = "overlap" in str(error).lower()
        raise ImageError(
            "segments overlap, and a mask holds one class number a pixel; save a file of segments that do not"
            if overlap
            else "frames are no even stack of slices; resample it onto the image's grid"
        ) from None
    return found.array, Grid(found.array.shape, np.diag([-1.0, -1, 1, 1]) @ found.affine)


def _frame_of(path: Path) -> Any:
    if path.is_dir():
        return headers(path)[0].get("FrameOfReferenceUID")
    return required(path, specific_tags=["FrameOfReferenceUID", "SOPClassUID"]).get("FrameOfReferenceUID")
