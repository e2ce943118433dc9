"""The position of a file's voxels in the patient, from its headers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedcore.data.io.dicom.frames import dicom_grid
from fedcore.data.io.dicom.series import series_grid
from fedcore.data.io.grid import Grid
from fedcore.data.io.nifti import nifti_grid
from fedcore.data.io.readers import guarded, kind_of

_GRIDS = {"NIfTI": nifti_grid, "DICOM": dicom_grid, "DICOM series": series_grid}


def grid_of(path: Path) -> Grid | None:
    """The voxel grid of a NIfTI or DICOM; None for other kinds of file, which are stored as `read_image` returns them.

    The file must be readable by `read_image`.
    """
    if path.suffix.lower() == ".npz":
        return None
    kind = kind_of(path)
    return guarded(kind, lambda: _GRIDS[kind](path)) if kind in _GRIDS else None


def affine_of(path: Path) -> np.ndarray | None:
    """Voxel index, along the axes of `read_image`, to mm in RAS, 4 x 4; None if the file does not contain it.

    For a single slice along the axes (x, y, z) of a volume of one slice. The file must be readable by `read_image`.
    """
    grid = grid_of(path)
    return None if grid is None else grid.ras_affine
