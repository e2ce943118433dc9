"""A folder with one DICOM series, one file per slice, to one array."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID

from fedcore.data.io.dicom.frames import TRAITS, require_dataset, slice_header, sort_frames
from fedcore.data.io.dicom.image import SEGMENTATIONS, read_dataset, require_image, samples, storage_class, to_volume
from fedcore.data.io.dicom.slice_order import SortedSlices, sort_slices
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid

_EQUAL = {"SeriesInstanceUID": "series", "FrameOfReferenceUID": "frames of reference", "Modality": "modalities"}
"""Attributes that must be equal for all images of a folder."""
GEOMETRY = [
    "SOPClassUID", *_EQUAL, "Rows", "Columns", "NumberOfFrames", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "SpacingBetweenSlices", "SliceThickness",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "GridFrameOffsetVector",
    "FrameIncrementPointer", "CineRate", *TRAITS,
]  # fmt: skip


def read_series(folder: Path) -> np.ndarray:
    """(c, x, y, z); (c, d, h, w) if slices have no position; (c, h, w) for a single slice.

    Raises:
        ImageError: There is no image, several series, or images that are not the slices of one volume.
    """
    files = images(folder)
    for file in files:
        require_image(file)
    slices = sort_series(files)
    if len(files) == 1:
        return slices.grid.to_ras(to_volume([samples(files[0])])[:, list(slices.order)])
    parts = [samples(files[at]) for at in slices.order]
    if len({len(part.values) for part in parts}) > 1:
        raise ImageError("greyscale and colour images in one series; remove those of another image")
    return slices.grid.to_ras(to_volume(parts))


def series_grid(folder: Path) -> Grid:
    """The folder must be readable."""
    return sort_series(headers(folder)).grid


def headers(folder: Path) -> list[Any]:
    """As `images`, without pixels."""
    return images(folder, specific_tags=GEOMETRY, stop_before_pixels=True)


def images(folder: Path, **options: Any) -> list[Any]:
    """The images of a folder in the order of file names, without reports, segmentations and tables of contents."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = {path: _read(path, **options) for path in files}
    if broken := sum(_damaged(path, file) for path, file in found.items()):
        raise ImageError(
            f"{broken} of {len(found)} files have a DICOM name but are damaged or empty; copy the folder again"
        )
    slices = [file for file in found.values() if file is not None and _is_image(file)]
    if not slices:
        inside = sum(path.is_dir() for path in folder.iterdir())
        raise ImageError(
            "a folder without DICOM files"
            + (f", but with {inside} folders; use the one with the series" if inside else "")
        )
    return slices


def header_of(path: Path) -> Any:
    """The data set, without pixels, of a file or of one image of a folder. Raises ImageError if there is none."""
    if path.is_file():
        return require_dataset(path, stop_before_pixels=True)
    for part in sorted(part for part in path.iterdir() if part.is_file()):
        file = _read(part, stop_before_pixels=True)
        if file is not None and _is_image(file):
            return file
    raise ImageError("a folder without DICOM files")


def sort_series(files: list[Any]) -> SortedSlices:
    """Raises ImageError if the images are not the slices of one volume."""
    for name, what in _EQUAL.items():
        counts = Counter(str(file.get(name) or "") for file in files)
        if len(counts) > 1:
            numbers = " and ".join(str(count) for _, count in counts.most_common())
            raise ImageError(f"{len(counts)} {what} in one folder ({numbers} images); it must contain one")
    if any(int(file.get("NumberOfFrames") or 1) > 1 for file in files):
        if len(files) > 1:
            raise ImageError(f"{len(files)} files, some with several frames; use the file itself, not its folder")
        return sort_frames(files[0])
    kinds = Counter(tuple(str(part) for part in (file.get("ImageType") or ())[:3]) for file in files)
    if len(kinds) > 1:
        numbers = " and ".join(str(count) for _, count in kinds.most_common())
        raise ImageError(
            f"images of {len(kinds)} kinds by ImageType ({numbers}), such as localizers, projections or other derived "
            "images among slices; remove files that are not slices"
        )
    return sort_slices([slice_header(file) for file in files])


def _read(path: Path, **options: Any) -> Any:
    try:
        return read_dataset(path, **options)
    except OSError:
        raise
    except Exception:  # damaged, which `images` reports
        return None


def _is_image(file: Any) -> bool:
    return "Rows" in file and storage_class(file) not in SEGMENTATIONS


def _damaged(path: Path, file: Any) -> bool:
    """Whether a file ends before its number of rows, or is not DICOM although its name is: .dcm and the like, UIDs, and
    numbered names without a suffix, such as IM0001."""
    if file is not None:
        return "Rows" not in file and UID(storage_class(file)).name.endswith("Image Storage")
    suffix = path.suffix.lower()
    return suffix in (".dcm", ".dicom", ".ima") or suffix[1:].isdigit() or (not suffix and path.name[-1:].isdigit())
