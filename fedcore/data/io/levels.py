"""The levels of synthetic images: 0 is black, and a file's own kind says which value is white.

A generator draws in [-1, 1], and `fedgen.synthetic.image_files` writes that as integers of 8 bits (pictures) or 12 bits
(volumes, DICOM). A scaling that suits the images of hospitals, such as a window of Hounsfield units, does not suit
these.
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

GREYS, LEVELS = 255, 4095
"""White in a file of 8 bits, and in one of more: 12 bits, as scanners have."""
_WIDE = 65535
"""White in a picture of 16 bits: programs that widen 8 bits fill them all."""


def white_of(path: Path, member: str | None = None, index: int | None = None) -> int:
    """The value of white in a file of a synthetic set, from its header.

    Files that were converted keep their levels: 255 of arrays, NIfTI and DICOM of 8 bits, 4095 of all with more.

    Raises:
        ImageError: The file holds floating-point or rescaled values, which do not say what is white.
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
    """Raises ImageError where values lie outside of 0 (black) to `white`."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > white:
        raise ImageError(
            f"a synthetic image of values {low:g} to {high:g}; its kind of file holds levels of 0 to {white}"
        )


def _of_type(kind: np.dtype) -> int:
    if kind.kind not in "ui":
        raise ImageError(
            "a synthetic image of floating-point or rescaled values, which do not say what is white; store it as it "
            "was drawn: 0 to 255 in 8-bit integers, or 0 to 4095 in wider ones"
        )
    return GREYS if kind.itemsize == 1 else LEVELS


def _of_nifti(path: Path) -> int:
    header = nifti_header(path)
    slope, start = header.get_slope_inter()
    plain = slope in (None, 1) and start in (None, 0)
    return _of_type(header.get_data_dtype() if plain else np.dtype(np.float32))


def _of_dicom(path: Path) -> int:
    header = header_of(path)
    return GREYS if int(header.get("BitsStored", header.BitsAllocated)) <= 8 else LEVELS


def _of_picture(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as picture:
        mode = picture.mode
    if mode == "F":
        return _of_type(np.dtype(np.float32))
    return _WIDE if mode.startswith("I") else GREYS
