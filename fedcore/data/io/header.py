"""What the header of an image file says of place and kind, for `data check`: nothing of a patient."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.data.io.affine import grid_of
from fedcore.data.io.dicom.frames import required
from fedcore.data.io.dicom.series import headers, stack_of_series
from fedcore.data.io.readers import guarded, kind_of


@dataclass(frozen=True)
class Header:
    """Of one image file or DICOM series; None is what the file does not say."""

    spacing: tuple[float, ...] | None = None
    """In mm, along the axes of `read_image`."""
    orientation: str | None = None
    """Of the voxels as the file stores them, in letters of nibabel's `aff2axcodes`: `LAS`. Without one nobody knows how
    a volume lies, so it is not turned and its axes may be others than those of the rest."""
    modality: str | None = None
    """DICOM's word for it (CT, MR, US ...), of DICOM files alone."""
    series: str | None = None
    """The same for files of one DICOM series, from a hash; says nothing else of it."""
    numbers_reversed: bool = False
    """Instance numbers of a DICOM series fall where places along the slices' normal rise. A `.npy` mask in the order of
    a viewer then lies upside down, since masks run as places do."""


def read_header(path: Path) -> Header:
    """The file must be one that `read_image` could read."""
    kind = kind_of(path)
    grid = grid_of(path)
    told = Header() if grid is None else Header(spacing=grid.spacing, orientation=grid.letters)
    return guarded(kind, lambda: _of_dicom(told, path)) if kind.startswith("DICOM") else told


def _of_dicom(told: Header, path: Path) -> Header:
    files = headers(path) if path.is_dir() else [required(path, stop_before_pixels=True)]
    uid = str(files[0].get("SeriesInstanceUID") or "")
    return replace(
        told,
        modality=str(files[0].get("Modality") or "") or None,
        series=hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else None,
        numbers_reversed=path.is_dir() and stack_of_series(files).falling,
    )
