"""A folder that holds one DICOM series, a file a slice, to one array."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID

from fedcore.data.io.dicom.frames import TRAITS, plane, required, stack_of
from fedcore.data.io.dicom.image import SEGMENTATIONS, joined, kind_of_object, opened, require_image, samples
from fedcore.data.io.dicom.planes import Stack, stacked
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid

_ONE = {"SeriesInstanceUID": "series", "FrameOfReferenceUID": "frames of reference", "Modality": "modalities"}
"""What all images of a folder have one of."""
GEOMETRY = [
    "SOPClassUID", *_ONE, "Rows", "Columns", "NumberOfFrames", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "SpacingBetweenSlices", "SliceThickness",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "GridFrameOffsetVector",
    "FrameIncrementPointer", "CineRate", *TRAITS,
]  # fmt: skip


def read_series(folder: Path) -> np.ndarray:
    """(c, x, y, z), or (c, d, h, w) along the slices' normal where nobody knows where they lie; of one slice (c, h, w).

    Raises:
        ImageError: No image, several series, or images that are not the slices of one volume.
    """
    files = images(folder)
    for file in files:
        require_image(file)
    stack = stack_of_series(files)
    if len(files) == 1:
        return stack.grid.turned(joined([samples(files[0])])[:, list(stack.order)])
    parts = [samples(files[at]) for at in stack.order]
    if len({len(part.values) for part in parts}) > 1:
        raise ImageError("grey and coloured images in one series; take out what does not belong to it")
    return stack.grid.turned(joined(parts))


def series_grid(folder: Path) -> Grid:
    """The folder must be one that can be read."""
    return stack_of_series(headers(folder)).grid


def headers(folder: Path) -> list[Any]:
    """What `images` gives, without pixels."""
    return images(folder, specific_tags=GEOMETRY, stop_before_pixels=True)


def images(folder: Path, **how: Any) -> list[Any]:
    """The data sets of a folder that are images, by name of file: no reports, segmentations, tables of contents."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = {path: _opened(path, **how) for path in files}
    if broken := sum(_damaged(path, file) for path, file in found.items()):
        raise ImageError(
            f"{broken} of {len(found)} files are named as DICOM is and are none (damaged or empty); copy it again"
        )
    slices = [file for file in found.values() if file is not None and _is_image(file)]
    if not slices:
        inside = sum(path.is_dir() for path in folder.iterdir())
        raise ImageError(
            "a folder without DICOM files"
            + (f", but with {inside} folders; name the one that holds the series" if inside else "")
        )
    return slices


def header_of(path: Path) -> Any:
    """The data set, without pixels, of a file or of one image of a folder. Raises ImageError where there is none."""
    if path.is_file():
        return required(path, stop_before_pixels=True)
    for part in sorted(part for part in path.iterdir() if part.is_file()):
        file = _opened(part, stop_before_pixels=True)
        if file is not None and _is_image(file):
            return file
    raise ImageError("a folder without DICOM files")


def stack_of_series(files: list[Any]) -> Stack:
    """Raises ImageError where the images are not the slices of one volume."""
    for name, what in _ONE.items():
        counts = Counter(str(file.get(name) or "") for file in files)
        if len(counts) > 1:
            shares = " and ".join(str(count) for _, count in counts.most_common())
            raise ImageError(f"{len(counts)} {what} in one folder ({shares} images); a folder holds one")
    if any(int(file.get("NumberOfFrames") or 1) > 1 for file in files):
        if len(files) > 1:
            raise ImageError(f"{len(files)} files, some of many frames; name the file of many frames itself")
        return stack_of(files[0])
    kinds = Counter(tuple(str(part) for part in (file.get("ImageType") or ())[:3]) for file in files)
    if len(kinds) > 1:
        shares = " and ".join(str(count) for _, count in kinds.most_common())
        raise ImageError(
            f"images of {len(kinds)} kinds by ImageType ({shares}), such as localizers, projections or other derived "
            "images among slices; take out what is no slice"
        )
    return stacked([plane(file) for file in files])


def _opened(path: Path, **how: Any) -> Any:
    try:
        return opened(path, **how)
    except OSError:
        raise
    except Exception:  # damaged, as `images` tells
        return None


def _is_image(file: Any) -> bool:
    return "Rows" in file and kind_of_object(file) not in SEGMENTATIONS


def _damaged(path: Path, file: Any) -> bool:
    """What ends before it says how many rows it has, or is no DICOM by content though by name: .dcm and the like, UIDs,
    and names without an ending that count, such as IM0001."""
    if file is not None:
        return "Rows" not in file and UID(kind_of_object(file)).name.endswith("Image Storage")
    ending = path.suffix.lower()
    return ending in (".dcm", ".dicom", ".ima") or ending[1:].isdigit() or (not ending and path.name[-1:].isdigit())
