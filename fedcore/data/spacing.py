"""How far apart the pixels of a file are, in mm, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.geometry import Spacing
from fedcore.data.readers import ImageFault, kind_of


def spacing_of(path: Path) -> Spacing | None:
    """In mm along each axis, in the order of the axes of `read_image`; None where the file does not say it.

    A NIfTI says it by an affine that is set and whose axes stand at right angles. The file must be one that
    `read_image` could read.
    """
    kind = kind_of(path)
    found = _of_nifti(path) if kind == "NIfTI" else _of_dicom(path) if kind.startswith("DICOM") else None
    return found if found and all(np.isfinite(found)) and min(found) > 0 else None


def require_one_place(image: Path, mask: Path) -> None:
    """Raises ImageFault where two NIfTI files, both of which could be read, say that they lie in different places."""
    if not kind_of(image) == kind_of(mask) == "NIfTI":
        return
    here, there = _affine(image), _affine(mask)
    if here is None or there is None:
        return
    if not np.allclose(here, there, atol=1e-2 * np.abs(here[:3, :3]).max()):
        raise ImageFault("mask lies elsewhere than its image (their affines differ); resample it onto the image's grid")


def scaled(spacing: Sequence[float], before: Sequence[int], after: Sequence[int]) -> Spacing:
    """Of an image resized from `before` to `after` pixels."""
    return tuple(mm * old / new for mm, old, new in zip(spacing, before, after, strict=True))


def _affine(path: Path) -> np.ndarray | None:
    """None where neither of the two that a header can hold is set."""
    import nibabel

    header: Any = nibabel.load(path).header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        return None
    affine: np.ndarray = header.get_best_affine()
    return affine


def _of_nifti(path: Path) -> Spacing | None:
    from nibabel.orientations import io_orientation

    affine = _affine(path)
    if affine is None:
        return None
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not lengths.all():
        return None
    cosines = (axes / lengths).T @ (axes / lengths)
    if np.abs(cosines - np.eye(3)).max() > 1e-3:
        return None
    order = np.argsort(io_orientation(affine)[:, 0])  # as the reader turns the volume
    return tuple(float(lengths[at]) for at in order)


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
