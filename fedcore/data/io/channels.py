"""How many channels a file gives, from its header alone: no grey picture has to be read to be known for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io import npz
from fedcore.data.io.array import channels_first
from fedcore.data.io.fault import ImageFault
from fedcore.data.io.picture import PICTURES, channels_of_picture
from fedcore.data.io.readers import guarded, kind_of


def certainly_grey(path: Path) -> bool:
    """Whether `read_image` gives one channel; False also where only the pixels, or a fault, would tell."""
    try:
        kind = kind_of(path)
        return guarded(kind, lambda: _channels(path, kind)) == 1
    except ImageFault:
        return False


def _channels(path: Path, kind: str) -> int | None:
    if kind in PICTURES.values():
        return channels_of_picture(path)
    if kind == "npy":
        return len(channels_first(np.broadcast_to(np.float32(0), npz.shape_of(path))))
    if kind == "NIfTI":
        import nibabel

        image: Any = nibabel.load(path)
        shape = image.shape
        return 1 if len(shape) < 4 else int(shape[3])
    return _of_dicom(path)


def _of_dicom(path: Path) -> int | None:
    import pydicom

    file = path if path.is_file() else min(each for each in path.iterdir() if each.is_file())
    header = pydicom.dcmread(file, stop_before_pixels=True)
    return None if header.PhotometricInterpretation == "PALETTE COLOR" else int(header.SamplesPerPixel)
