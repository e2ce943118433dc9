"""The voxel grid of a file, and its reorientation to RAS.

Volumes with an affine are reoriented to RAS: their axes run to the patient's right, to the front and to the head. A
single slice becomes a picture as a viewer shows it: axial with the front on top and the patient's right at the left,
coronal with the head on top, sagittal with the head on top and the front at the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.preprocess.geometry import Spacing

RAS = np.array([[0, 1], [1, 1], [2, 1]])
"""RAS as an orientation array of nibabel."""
MAX_SHEAR = 0.01
"""Largest cosine between two axes that count as perpendicular: 0.6 degrees."""


@dataclass(frozen=True)
class Grid:
    """The voxel grid in the order of the file: for NIfTI as nibabel reads it, for DICOM (slice, row, column), with
    slices sorted by position along the normal."""

    shape: tuple[int, int, int]
    """Voxels along each axis; 1 for the axis that a single slice lacks."""
    affine: np.ndarray | None = None
    """Voxel index to mm in RAS, 4 x 4; None if the file has no valid one."""
    mm: Spacing | None = None
    """Distance of voxels along each stored axis, from the header, if there is no affine."""

    def __post_init__(self) -> None:
        """Raises ImageError where axes are not perpendicular, which an array cannot represent."""
        if self.affine is None:
            return
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        cosines = np.abs(axes.T @ axes - np.eye(3)) * np.outer(*[np.array(self.shape) > 1] * 2)
        if cosines.max() > MAX_SHEAR:
            degrees = np.degrees(np.arcsin(min(1.0, cosines.max())))
            raise ImageError(
                f"axes are {degrees:.1f} degrees off a right angle (gantry tilt, or a registration with shear); "
                "resample the volume onto a perpendicular grid, for instance with dcm2niix or SimpleITK"
            )

    @property
    def orientation(self) -> np.ndarray:
        """From the stored axes to RAS, as nibabel writes it; the identity if there is no affine."""
        from nibabel.orientations import io_orientation

        return RAS if self.affine is None else np.asarray(io_orientation(self.affine))

    @property
    def ras_affine(self) -> np.ndarray | None:
        """The affine after the reorientation to RAS; a single slice keeps its third axis here."""
        from nibabel.orientations import inv_ornt_aff

        return None if self.affine is None else self.affine @ inv_ornt_aff(self.orientation, self.shape)

    @property
    def spacing(self) -> Spacing | None:
        """In mm along the axes of `to_ras`; None unless the file contains it for all of them."""
        affine, flat = self.ras_affine, self._flat_axis(self.ras_shape)
        every = self.mm or () if affine is None else np.linalg.norm(affine[:3, :3], axis=0).tolist()
        sides = tuple(side for at, side in enumerate(every) if at != flat)
        if not sides or not np.isfinite(sides).all() or min(sides) <= 0:
            return None
        return sides if affine is None or flat is None else sides[::-1]

    @property
    def axis_codes(self) -> str | None:
        """Of the stored axes, such as `LAS`."""
        from nibabel.orientations import aff2axcodes

        return None if self.affine is None else "".join(aff2axcodes(self.affine))

    def to_ras(self, voxels: np.ndarray) -> np.ndarray:
        """(c, *shape) as stored to (c, x, y, z), or to (c, row, column) for a single slice; without an affine only the
        axis of a single slice is removed."""
        from nibabel.orientations import apply_orientation

        volume = np.moveaxis(apply_orientation(np.moveaxis(voxels, 0, -1), self.orientation), -1, 0)
        if (flat := self._flat_axis(volume.shape[1:])) is None:
            return volume
        slice_ = volume.take(0, flat + 1)
        return slice_ if self.affine is None else as_displayed(slice_)

    def from_ras(self, voxels: np.ndarray) -> np.ndarray:
        """The inverse of `to_ras`, without channels: to (*shape) as stored."""
        from nibabel.orientations import apply_orientation, ornt_transform

        if (flat := self._flat_axis(self.ras_shape)) is not None:
            voxels = np.expand_dims(voxels if self.affine is None else as_displayed(voxels), flat)
        return np.ascontiguousarray(apply_orientation(voxels, ornt_transform(RAS, self.orientation)))

    def same_position(self, other: Grid) -> bool:
        """Whether all corners of both grids are equal, to a tenth of a voxel's shortest side."""
        affine, others = self.ras_affine, other.ras_affine
        assert affine is not None, "only grids with an affine are compared"
        assert others is not None, "only grids with an affine are compared"
        corners = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in self.ras_shape))])
        shortest = np.linalg.norm(affine[:3, :3], axis=0).min()
        return bool(np.linalg.norm(corners @ (affine - others).T, axis=1).max() <= 0.1 * shortest)

    @property
    def ras_shape(self) -> tuple[int, ...]:
        shape = [0, 0, 0]
        for side, axis in zip(self.shape, self.orientation[:, 0].astype(int), strict=True):
            shape[axis] = side
        return tuple(shape)

    @staticmethod
    def _flat_axis(shape: tuple[int, ...]) -> int | None:
        """The axis that a single slice lacks: the last one of one voxel."""
        return next((axis for axis in (2, 1, 0) if shape[axis] == 1), None)


def as_displayed(slice_: np.ndarray) -> np.ndarray:
    """(..., a, b) of two RAS axes to (..., row, column) as a viewer shows them, a view; it is its own inverse."""
    return slice_[..., ::-1, ::-1].swapaxes(-1, -2)


def valid_affine(affine: Any) -> np.ndarray | None:
    """The affine; None if it is not finite or singular (all zero, for instance)."""
    found = np.asarray(affine, dtype=float)
    if not np.isfinite(found).all() or np.linalg.matrix_rank(found[:3, :3]) < 3:
        return None
    return found
