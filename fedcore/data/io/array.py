"""Plain arrays (.npy, items of .npz), and which of their axes are channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedcore.data.io import npz
from fedcore.data.io.error import ImageError


def read_npy(path: Path, channels: bool = True) -> np.ndarray:
    from monai.data.image_reader import NumpyReader

    with path.open("rb") as stream:
        npz.require_complete(stream, path.stat().st_size)
    reader = NumpyReader()  # rejects pickled objects
    array = np.asarray(reader.get_data(reader.read(path))[0])
    if channels:
        return channels_first(array)
    return _without_length_1(array)[None]


def channels_first(array: np.ndarray) -> np.ndarray:
    """A plain array as (c, h, w) or (c, d, h, w), by its shape alone.

    - (h, w); (h, w, 1|3|4); (1|3, h, w); else (d, h, w), such as (2, h, w) and (h, w, 2).
    - (d, h, w, 1|3|4); (1|3, d, h, w). A volume of one slice is a picture: (1, h, w, 3) and (3, 1, h, w).

    The last axis is preferred: (3, h, 3) has its channels last, (3, h, 1) is a greyscale picture of 3 rows. A fourth
    channel (alpha) is removed. Of five axes and more the outer ones of length 1 are removed first.
    """
    shape = array.shape
    while array.ndim > 4 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] not in (1, 3)):
        return array[None]
    if array.ndim in (3, 4) and array.shape[-1] in (1, 3, 4):
        image = np.moveaxis(array[..., :3], -1, 0)
    elif array.ndim in (3, 4) and array.shape[0] in (1, 3):
        image = array
    else:
        raise ImageError(f"array of shape {shape} is neither a picture nor a volume")
    return image[:, 0] if image.ndim == 4 and image.shape[1] == 1 else image


def _without_length_1(array: np.ndarray) -> np.ndarray:
    """Without outer axes of length 1, as long as two axes stay."""
    while array.ndim > 2 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    return array
