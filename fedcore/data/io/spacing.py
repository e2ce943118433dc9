"""How far apart the pixels of a file are, in mm, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.data.io.affine import grid_of
from fedcore.data.preprocess.geometry import Spacing


def spacing_of(path: Path) -> Spacing | None:
    """In mm along each axis, in the order of the axes of `read_image`; None where the file does not say it.

    A volume says it by where its voxels lie, else by what its headers say of their distance; a radiograph of its
    detector, where it is not calibrated. The file must be one that `read_image` could read.
    """
    grid = grid_of(path)
    return None if grid is None else grid.spacing


def scaled(spacing: Sequence[float], before: Sequence[int], after: Sequence[int]) -> Spacing:
    """Of an image resized from `before` to `after` pixels."""
    return tuple(mm * old / new for mm, old, new in zip(spacing, before, after, strict=True))
