"""The intensity levels of synthetic images: 0 is black, the kind of file determines white.

A generator returns values in [-1, 1], which `fedgen.synthetic.image_files` writes as integers of 8 bits (pictures) or
12 bits (volumes, DICOM). A scaling for images of hospitals, such as a window of Hounsfield units, does not fit them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedcore.data.io import npz
from fedcore.data.io.dicom.series import header_of
from fedcore.data.io.error import ImageError
from fedcore.data.io.nifti import nifti_header
from fedcore.data.io.readers import guarded, kind_of

WHITE_8BIT, WHITE_12BIT = 255, 4095
"""White in a file of 8 bits, and in one of more: 12 bits, as of scanners."""
_WHITE_16BIT = 65535
"""White in a picture of 16 bits: programs that convert 8 bits use the full range."""


def white_level(path: Path, member: str | None = None, index: int | None = None) -> int:
    """The value of white in a file of a synthetic set, from its header.

    Converted files keep their levels: 255 for arrays, NIfTI and DICOM of 8 bits, 4095 for those of more.

    Raises:
        ImageError: The file contains floating-point or rescaled values, whose white is unknown.
    """
    kind = kind_of(path) if member is None else "npz"
    levels: dict[str, Callable[[], int]] = {
        "npz": lambda: _of_type(npz.item(path, member or "", index or 0).dtype), "NIfTI": lambda: _of_nifti(path),
        "npy": lambda: _of_type(np.load(path, mmap_mode="r", allow_pickle=False).dtype),
        "DICOM": lambda: _of_dicom(path), "DICOM series": lambda: _of_dicom(path),
    }  # fmt: skip
    found = levels.get(kind, lambda: _of_picture(path))
    return int(guarded(kind, lambda: np.array(found())))


def require_levels(image: np.ndarray, white: int) -> None:
    """Raises ImageError for values outside of 0 (black) to `white`."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > white:
        raise ImageError(
            f"a synthetic image with values {low:g} to {high:g}; files of this kind must have values 0 to {white}"
        )


def _of_type(kind: np.dtype) -> int:
    if kind.kind not in "ui":
        raise ImageError(
            "a synthetic image of floating-point or rescaled values, whose range is unknown; store it as it was "
            "generated: 0 to 255 in 8-bit integers, or 0 to 4095 in wider ones"
        )
    return WHITE_8BIT if kind.itemsize == 1 else WHITE_12BIT


def _of_nifti(path: Path) -> int:
    header = nifti_header(path)
    slope, start = header.get_slope_inter()
    plain = slope in (None, 1) and start in (None, 0)
    return _of_type(header.get_data_dtype() if plain else np.dtype(np.float32))


def _of_dicom(path: Path) -> int:
    header = header_of(path)
    return WHITE_8BIT if int(header.get("BitsStored", header.BitsAllocated)) <= 8 else WHITE_12BIT


def _of_picture(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as picture:
        mode = picture.mode
    if mode == "F":
        return _of_type(np.dtype(np.float32))
    return _WHITE_16BIT if mode.startswith("I") else WHITE_8BIT
