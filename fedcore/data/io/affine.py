"""Where the voxels of a file lie in a patient, from its headers alone, and masks that are turned to lie alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.dicom import series_affine
from fedcore.data.io.readers import ImageFault, kind_of, read_mask

CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])
"""As `read_image` turns a NIfTI: right, front, above."""


def affine_of(path: Path) -> np.ndarray | None:
    """Place of a voxel, along the axes of `read_image`, to mm in RAS, 4 x 4; None where the file does not say it.

    Told of NIfTI and of DICOM series. The file must be one that `read_image` could read.
    """
    kind = kind_of(path)
    return _of_nifti(path) if kind == "NIfTI" else series_affine(path) if kind == "DICOM series" else None


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


def _of_nifti(path: Path) -> np.ndarray | None:
    """None where neither of the two that a header can hold is set."""
    import nibabel
    from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform

    header: Any = nibabel.load(path).header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        return None
    affine: np.ndarray = header.get_best_affine()
    if not np.linalg.norm(affine[:3, :3], axis=0).all():
        return None
    turn = ornt_transform(io_orientation(affine), CANONICAL)
    return affine @ inv_ornt_aff(turn, (*header.get_data_shape()[:3], 1, 1)[:3])


def _tolerance(affine: np.ndarray) -> float:
    """A hundredth of a voxel's longest side, in mm."""
    return 0.01 * float(np.abs(affine[:3, :3]).max())


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
