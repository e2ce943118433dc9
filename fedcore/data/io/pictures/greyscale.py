"""Whether a file is greyscale, from its header alone, so that greyscale pictures need not be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedcore.data.io import npz
from fedcore.data.io.array import channels_first
from fedcore.data.io.dicom.series import header_of
from fedcore.data.io.error import ImageError
from fedcore.data.io.nifti import nifti_header
from fedcore.data.io.pictures.picture import PICTURES, is_greyscale_picture
from fedcore.data.io.readers import guarded, kind_of


def known_greyscale(path: Path) -> bool:
    """Whether `read_image` returns one channel; False if it does not, or if the header does not decide it."""
    try:
        kind = kind_of(path)
        return guarded(kind, lambda: _is_greyscale(path, kind))
    except ImageError:
        return False


def _is_greyscale(path: Path, kind: str) -> bool:
    if kind in PICTURES.values():
        return is_greyscale_picture(path)
    if kind == "npy":
        return len(channels_first(np.broadcast_to(np.float32(0), npz.shape_of(path)))) == 1
    if kind == "NIfTI":
        shape = nifti_header(path).get_data_shape()
        return len(shape) < 4 or shape[3] == 1
    header = header_of(path)
    return bool(header.SamplesPerPixel == 1) and header.PhotometricInterpretation != "PALETTE COLOR"
