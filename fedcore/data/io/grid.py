"""How a file stores the voxels of an image, and how they are turned so that every image lies alike.

Volumes of which the file says where they lie are turned to RAS: their axes run to the patient's right, to the front and
to the head. Of one slice a picture is made as a viewer shows it: of an axial one the front is on top and the patient's
right at the left, of a coronal one the head is on top, of a sagittal one the head is on top and the front at the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.preprocess.geometry import Spacing

CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])
"""RAS, as an orientation of nibabel's."""
SHEAR = 0.01
"""Greatest cosine between two axes that count as at right angles: 0.6 degrees."""


@dataclass(frozen=True)
class Grid:
    """Voxels in the order of the file: of NIfTI as nibabel gives them, of DICOM (slice, row, column) with slices by
    their place along the normal."""

    space: tuple[int, int, int]
    """Voxels along each axis; 1 along that which a slice does not have."""
    affine: np.ndarray | None = None
    """Place of a voxel to mm in RAS, 4 x 4; None where the file does not say it, or in a way that cannot be."""
    mm: Spacing | None = None
    """Between voxels along each stored axis, as the header says it, where there is no affine."""

    def __post_init__(self) -> None:
        """Raises ImageError where axes are not at right angles, which no array can show."""
        if self.affine is None:
            return
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        between = np.abs(axes.T @ axes - np.eye(3)) * np.outer(*[np.array(self.space) > 1] * 2)
        if between.max() > SHEAR:
            off = np.degrees(np.arcsin(min(1.0, between.max())))
            raise ImageError(
                f"axes are {off:.1f} degrees off a right angle (gantry tilt, or a registration with shear); resample "
                "the volume onto a grid at right angles, for instance with dcm2niix or SimpleITK"
            )

    @property
    def turn(self) -> np.ndarray:
        """Of the stored axes to those of RAS, as nibabel writes it; nothing where nobody knows how they lie."""
        from nibabel.orientations import io_orientation

        return CANONICAL if self.affine is None else np.asarray(io_orientation(self.affine))

    @property
    def turned_affine(self) -> np.ndarray | None:
        """The affine once axes are turned to RAS; a slice keeps its third axis here."""
        from nibabel.orientations import inv_ornt_aff

        return None if self.affine is None else self.affine @ inv_ornt_aff(self.turn, self.space)

    @property
    def spacing(self) -> Spacing | None:
        """In mm along the axes of `turned`; None where the file does not say it of all of them."""
        affine, flat = self.turned_affine, self._flat(self.turned_space)
        every = self.mm or () if affine is None else np.linalg.norm(affine[:3, :3], axis=0).tolist()
        sides = tuple(side for at, side in enumerate(every) if at != flat)
        if not sides or not np.isfinite(sides).all() or min(sides) <= 0:
            return None
        return sides if affine is None or flat is None else sides[::-1]

    @property
    def letters(self) -> str | None:
        """Of the stored axes: `LAS`."""
        from nibabel.orientations import aff2axcodes

        return None if self.affine is None else "".join(aff2axcodes(self.affine))

    def turned(self, voxels: np.ndarray) -> np.ndarray:
        """(c, *space) as stored to (c, x, y, z), or (c, row, column) of one slice; as they are, but for an axis of one
        slice, where nobody knows how they lie."""
        from nibabel.orientations import apply_orientation

        turned = np.moveaxis(apply_orientation(np.moveaxis(voxels, 0, -1), self.turn), -1, 0)
        if (flat := self._flat(turned.shape[1:])) is None:
            return turned
        plane = turned.take(0, flat + 1)
        return plane if self.affine is None else picture(plane)

    def stored(self, voxels: np.ndarray) -> np.ndarray:
        """Back from the axes of `turned` without channels to (*space)."""
        from nibabel.orientations import apply_orientation, ornt_transform

        if (flat := self._flat(self.turned_space)) is not None:
            voxels = np.expand_dims(voxels if self.affine is None else picture(voxels), flat)
        return np.ascontiguousarray(apply_orientation(voxels, ornt_transform(CANONICAL, self.turn)))

    def lies_as(self, other: Grid) -> bool:
        """Whether every corner lies where the other's does, to a tenth of a voxel's shortest side."""
        here, there = self.turned_affine, other.turned_affine
        assert here is not None, "only grids that lie somewhere are compared"
        assert there is not None, "only grids that lie somewhere are compared"
        ends = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in self.turned_space))])
        short = np.linalg.norm(here[:3, :3], axis=0).min()
        return bool(np.linalg.norm(ends @ (here - there).T, axis=1).max() <= 0.1 * short)

    @property
    def turned_space(self) -> tuple[int, ...]:
        space = [0, 0, 0]
        for side, axis in zip(self.space, self.turn[:, 0].astype(int), strict=True):
            space[axis] = side
        return tuple(space)

    @staticmethod
    def _flat(space: tuple[int, ...]) -> int | None:
        """The axis that a slice does not have: the last of one voxel."""
        return next((axis for axis in (2, 1, 0) if space[axis] == 1), None)


def picture(plane: np.ndarray) -> np.ndarray:
    """(..., a, b) of two axes of RAS to (..., row, column) as a viewer shows them, a view; and back again."""
    return plane[..., ::-1, ::-1].swapaxes(-1, -2)


def usable(affine: Any) -> np.ndarray | None:
    """The affine, or None where it is none: all zero, not finite, or without a volume."""
    found = np.asarray(affine, dtype=float)
    if not np.isfinite(found).all() or np.linalg.matrix_rank(found[:3, :3]) < 3:
        return None
    return found
