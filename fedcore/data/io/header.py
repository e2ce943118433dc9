"""Geometry and kind of an image from the header of its file, for `data check`; nothing of a patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.data.io.affine import grid_of
from fedcore.data.io.dicom.frames import require_dataset
from fedcore.data.io.dicom.series import headers, sort_series
from fedcore.data.io.readers import guarded, kind_of


@dataclass(frozen=True)
class Header:
    """Of one image file or DICOM series; None for what the file does not contain."""

    spacing: tuple[float, ...] | None = None
    """In mm, along the axes of `read_image`."""
    orientation: str | None = None
    """Of the stored axes, in the letters of nibabel's `aff2axcodes`, such as `LAS`. A volume without one is not
    reoriented, so that its axes may differ from those of the others."""
    modality: str | None = None
    """Of DICOM files alone: CT, MR, US ..."""
    series: str | None = None
    """A hash, equal for files of one DICOM series."""
    numbers_reversed: bool = False
    """Instance numbers of a DICOM series fall while positions along the slices' normal rise. A `.npy` mask in the order
    of a viewer is then upside down, since masks must be in the order of positions."""


def read_header(path: Path) -> Header:
    """The file must be readable by `read_image`."""
    kind = kind_of(path)
    grid = grid_of(path)
    geometry = Header() if grid is None else Header(spacing=grid.spacing, orientation=grid.axis_codes)
    return guarded(kind, lambda: _of_dicom(geometry, path)) if kind.startswith("DICOM") else geometry


def _of_dicom(geometry: Header, path: Path) -> Header:
    files = headers(path) if path.is_dir() else [require_dataset(path, stop_before_pixels=True)]
    uid = str(files[0].get("SeriesInstanceUID") or "")
    return replace(
        geometry,
        modality=str(files[0].get("Modality") or "") or None,
        series=hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else None,
        numbers_reversed=path.is_dir() and sort_series(files).numbers_reversed,
    )
