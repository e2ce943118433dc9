"""Where the voxels of a file lie in a patient, from its headers alone, and masks that are turned to lie alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.dicom import series_affine
from fedcore.data.io.readers import kind_of

CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])
"""As `read_image` turns a NIfTI: right, front, above."""


def affine_of(path: Path) -> np.ndarray | None:
    """Place of a voxel, along the axes of `read_image`, to mm in RAS, 4 x 4; None where the file does not say it.

    Told of NIfTI and of DICOM series. The file must be one that `read_image` could read.
    """
    kind = kind_of(path)
    return _of_nifti(path) if kind == "NIfTI" else series_affine(path) if kind == "DICOM series" else None


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
