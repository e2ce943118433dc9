"""One image of a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One image of the manifest."""

    number: int
    """Row of the CSV as a spreadsheet shows it (the header is row 1)."""
    image: Path
    """Absolute; a folder is a DICOM series."""
    site: str
    split: str
    """train, val or test."""
    label: str | None
    mask: Path | None
    patient: str
    """A unique key: site and patient's number, or the number alone if numbers are global. Without a patient in the
    manifest it is made of the image's name, so that every image is its own patient."""
    member: str | None = None
    """The array in an .npz file, with `index` the place in it."""
    index: int | None = None
    position: float | None = None
    """Position of a slice in its volume, in [0, 1]: from the least to the greatest of the patient at the site."""
    synthetic: bool = False
    """Made by a generator; its intensities follow from the file's white level (`fedcore.data.io.levels`)."""


def row_messages(site: str, rows: Sequence[Row], messages: Iterable[tuple[int, str]], files: bool = False) -> list[str]:
    """Messages about rows of a site, each with the site and the row number.

    Args:
        site: The site's name.
        rows: The site's rows.
        messages: (place in `rows`, text).
        files: Add the name of the image's file, which may contain a patient's name.
    """
    return [
        f"site '{site}', row {rows[at].number}{f', {rows[at].image.name}' if files else ''}: {text}"
        for at, text in messages
    ]
