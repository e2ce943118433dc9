"""How far apart the pixels of a file are, in mm, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedcore.data.geometry import Spacing
from fedcore.data.io.affine import affine_of
from fedcore.data.io.readers import kind_of


def spacing_of(path: Path) -> Spacing | None:
    """In mm along each axis, in the order of the axes of `read_image`; None where the file does not say it.

    A NIfTI says it by an affine that is set and whose axes stand at right angles; a DICOM series by where its slices
    lie, else by what its headers say of their distance. The file must be one that `read_image` could read.
    """
    if (affine := affine_of(path)) is not None:
        found = _of_affine(affine)
    elif kind_of(path).startswith("DICOM"):
        found = _of_dicom(path)
    else:
        found = None
    return found if found and all(np.isfinite(found)) and min(found) > 0 else None


def scaled(spacing: Sequence[float], before: Sequence[int], after: Sequence[int]) -> Spacing:
    """Of an image resized from `before` to `after` pixels."""
    return tuple(mm * old / new for mm, old, new in zip(spacing, before, after, strict=True))


def _of_affine(affine: np.ndarray) -> Spacing | None:
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not lengths.all():
        return None
    cosines = (axes / lengths).T @ (axes / lengths)
    return tuple(lengths.tolist()) if np.abs(cosines - np.eye(3)).max() <= 1e-3 else None


def _of_dicom(path: Path) -> Spacing | None:
    import pydicom
    from pydicom.misc import is_dicom

    file = path if path.is_file() else next(each for each in sorted(path.iterdir()) if is_dicom(each))
    header = pydicom.dcmread(file, stop_before_pixels=True)
    volume = path.is_dir() or int(header.get("NumberOfFrames", 1) or 1) > 1
    between = [header.get("SpacingBetweenSlices") or header.get("SliceThickness")] if volume else []
    try:
        return tuple(float(mm) for mm in [*between, *header.PixelSpacing])
    except (AttributeError, TypeError, ValueError):  # not there, empty, or no numbers
        return None
