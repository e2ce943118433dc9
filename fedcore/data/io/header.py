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
    return Header(spacing=spacing_of(path))
