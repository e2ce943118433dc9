"""DICOM SEG as masks: the segment number becomes the class number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.dicom.frames import require_dataset
from fedcore.data.io.dicom.image import SEGMENTATIONS, is_dicom, storage_class
from fedcore.data.io.dicom.series import headers
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import RAS, Grid
from fedcore.data.io.readers import guarded, kind_of
from fedcore.data.mask_classes import MAX_CLASS

_TOLERANCE = 0.1
"""Largest distance of a voxel from one of the image, in voxels."""


def segmentation_in(path: Path) -> Path | None:
    """The file itself, or the only file of a folder, if it is a segmentation."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        return segmentation_in(files[0]) if len(files) == 1 and guarded("DICOM", lambda: is_dicom(files[0])) else None
    if not (path.is_file() and kind_of(path) == "DICOM"):
        return None
    file = guarded("DICOM", lambda: require_dataset(path, specific_tags=["SOPClassUID"]))
    return path if storage_class(file) in SEGMENTATIONS else None


def read_segments(path: Path) -> tuple[UInt8[np.ndarray, "d h w"], Grid]:
    """Class numbers (slice, row, column) of the region that the file covers; slices missing in it are background.

    Raises:
        ImageError: Segments are fractional, overlap, or have too large numbers; frames are not evenly spaced.
    """
    return guarded("DICOM SEG", lambda: _segments(path))


def segments_on(path: Path, image: Path, grid: Grid) -> UInt8[np.ndarray, "i j k"]:
    """Class numbers in the voxel order of an image with an affine; voxels outside of all frames are background.

    Raises:
        ImageError: The frame of reference or the voxels differ from the image's.
    """
    from nibabel.orientations import apply_orientation, ornt_transform

    values, own = read_segments(path)
    if kind_of(image).startswith("DICOM"):
        frames = {str(_frame_of_reference(each)) for each in (path, image)} - {"None", ""}
        if len(frames) > 1:
            raise ImageError("its frame of reference differs from the image's; use the segmentation of this series")
    whole = np.zeros(grid.ras_shape, np.uint8)
    whole[np.ix_(*_places(own, grid))] = apply_orientation(values, own.orientation)
    return np.ascontiguousarray(apply_orientation(whole, ornt_transform(RAS, grid.orientation)))


def _places(own: Grid, grid: Grid) -> list[np.ndarray]:
    """Along each RAS axis, the indices of the segmentation's voxels in the image."""
    image, seg = grid.ras_affine, own.ras_affine
    assert image is not None, "the image has an affine"
    assert seg is not None, "frames of a segmentation have an affine"
    to_image = np.linalg.inv(image) @ seg
    steps, sides = np.diag(to_image)[:3], np.array(own.ras_shape)
    lines = [start + step * np.arange(side) for start, step, side in zip(to_image[:3, 3], steps, sides, strict=True)]
    across = int(own.orientation[0, 0])  # along this axis frames may be several of the image's slices apart
    skew = np.abs((to_image[:3, :3] - np.diag(steps)) * (sides - 1)).max()
    stretch = np.abs((np.delete(steps, across) - 1) * (np.delete(sides, across) - 1)).max()
    if max(skew, stretch, *(np.abs(line - line.round()).max() for line in lines)) > _TOLERANCE:
        raise ImageError("its voxels differ from the image's; resample it onto the image's grid")
    places = [line.round().astype(int) for line in lines]
    if any(line.min() < 0 or line.max() >= side for line, side in zip(places, grid.ras_shape, strict=True)):
        raise ImageError("partly outside its image; use the segmentation of this series")
    return places


def _segments(path: Path) -> tuple[np.ndarray, Grid]:
    from highdicom.seg import segread

    file = segread(path)
    if file.SegmentationType == "FRACTIONAL":
        raise ImageError("a fractional segmentation; save it as BINARY or LABELMAP, with a threshold of your choice")
    if (most := max(file.segment_numbers)) > MAX_CLASS:
        raise ImageError(f"segment number {most}; class numbers must be at most {MAX_CLASS}")
    try:
        found: Any = file.get_volume(combine_segments=True, dtype=np.uint8)
    except RuntimeError as error:
        overlap = "overlap" in str(error).lower()
        raise ImageError(
            "segments overlap, but a mask has one class number per pixel; save segments that do not overlap"
            if overlap
            else "frames are not evenly spaced; resample it onto the image's grid"
        ) from None
    return found.array, Grid(found.array.shape, np.diag([-1.0, -1, 1, 1]) @ found.affine)


def _frame_of_reference(path: Path) -> Any:
    if path.is_dir():
        return headers(path)[0].get("FrameOfReferenceUID")
    return require_dataset(path, specific_tags=["FrameOfReferenceUID", "SOPClassUID"]).get("FrameOfReferenceUID")
