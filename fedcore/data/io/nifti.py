"""NIfTI files to arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.fault import ImageFault
from fedcore.data.io.limits import require_voxels


def read_nifti(path: Path) -> np.ndarray:
    import nibabel
    from monai.data.image_reader import NibabelReader

    reader = NibabelReader(as_closest_canonical=True, mmap=False)
    header: Any = nibabel.load(path)
    require_voxels(header.shape, "NIfTI")
    volume = np.asarray(reader.get_data(reader.read(path))[0])
    if volume.ndim > 4 or (volume.ndim == 4 and volume.shape[3] > 4):
        raise ImageFault(f"NIfTI of shape {volume.shape}; a fourth axis holds at most 4 channels")
    volume = volume.reshape(volume.shape + (1,) * (4 - volume.ndim))
    volume = np.moveaxis(volume, -1, 0)
    return volume[..., 0] if volume.shape[-1] == 1 else volume
