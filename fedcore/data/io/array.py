"""Plain arrays (.npy, items of .npz): which of their axes are channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedcore.data.io import npz
from fedcore.data.io.fault import ImageFault


def read_npy(path: Path, colours: bool = True) -> np.ndarray:
    from monai.data.image_reader import NumpyReader

    with path.open("rb") as stream:
        npz.require_whole(stream, path.stat().st_size)
    reader = NumpyReader()  # refuses pickled objects
    array = np.asarray(reader.get_data(reader.read(path))[0])
    if colours:
        return channels_first(array)
    return array if array.ndim > 2 and array.shape[0] == 1 else array[None]


def channels_first(array: np.ndarray) -> np.ndarray:
    """The rule for plain arrays, told in `read_image`."""
    if array.ndim == 2:
        return array[None]
    if array.ndim in (3, 4) and array.shape[-1] in (3, 4):
        return np.moveaxis(array[..., :3], -1, 0)
    if array.ndim in (3, 4) and array.shape[0] in (1, 3):
        return array
    if array.ndim == 3:
        return array[None]
    raise ImageFault(f"array of shape {array.shape} is neither a picture nor a volume")
