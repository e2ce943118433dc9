"""The pixel spacing of a file in mm, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.data.io.affine import grid_of
from fedcore.data.preprocess.geometry import Spacing


def spacing_of(path: Path) -> Spacing | None:
    """In mm along each axis of `read_image`; None if the file does not contain it.

    For a volume from its affine, else from the distances in its header; for a radiograph that is not calibrated on the
    detector. The file must be readable by `read_image`.
    """
    grid = grid_of(path)
    return None if grid is None else grid.spacing


def scaled(spacing: Sequence[float], before: Sequence[int], after: Sequence[int]) -> Spacing:
    """The spacing of an image after resizing from `before` to `after` pixels."""
    return tuple(mm * old / new for mm, old, new in zip(spacing, before, after, strict=True))
