"""What the header of an image file says of place and kind, for `data check`: nothing of a patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedcore.data.io.spacing import spacing_of


@dataclass(frozen=True)
class Header:
    """Of one image file or DICOM series; None is what the file does not say."""

    spacing: tuple[float, ...] | None = None
    """In mm, along the axes of `read_image`."""
    orientation: str | None = None
    """Of the voxels as the file stores them, in letters of nibabel's `aff2axcodes`: `LAS`."""
    modality: str | None = None
    """DICOM's word for it (CT, MR, US ...), of DICOM files alone."""
    series: str | None = None
    """The same for files of one DICOM series, from a hash; says nothing else of it."""


def read_header(path: Path) -> Header:
    """The file must be one that `read_image` could read."""
    return Header(spacing=spacing_of(path))
