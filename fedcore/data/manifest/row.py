"""One image of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One image of the manifest."""

    number: int
    """Row in the CSV as a spreadsheet shows it (the header is row 1)."""
    image: Path
    """Absolute; a folder is a DICOM series."""
    site: str
    split: str
    """train, val or test."""
    label: str | None
    mask: Path | None
    patient: str
    """A key that no other patient has: of site and patient's number, or of the number alone where numbers are global.
    Where the manifest tells no patient it is of the image's own name: every image is then its own patient."""
    member: str | None = None
    """The array of an .npz file, and `index` the place in it."""
    index: int | None = None
    position: float | None = None
    """Where in its volume a slice lies, in [0, 1] from the patient's least to the greatest at the site."""
    synthetic: bool = False
    """Drawn by a generator; the file's own levels say its intensities (`fedcore.data.io.levels`)."""
