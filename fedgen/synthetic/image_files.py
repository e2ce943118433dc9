"""Synthetic images as files: 8-bit PNG in 2D, 12-bit NIfTI in 3D, which `Data` reads back unchanged."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.data.io.error import ImageError
from fedcore.data.io.levels import WHITE_8BIT, WHITE_12BIT
from fedcore.data.io.readers import read_image
from fedcore.errors import InputError


def require_encodable(shape: Sequence[int]) -> None:
    """Raises InputError if `encoded` has no file format for this number of channels; `shape` is (c, *space)."""
    possible = (1, 2, 3, 4) if len(shape) == 4 else (1, 3)
    if shape[0] not in possible:
        kind = "volumes can have 1 to 4 channels" if len(shape) == 4 else "images can have 1 or 3 channels"
        raise InputError(f"files of {kind}, the generator's have {shape[0]}; train one on images of fewer channels")


def encoded(image: Float[Tensor, "c *space"]) -> tuple[bytes, str]:
    """The bytes of a file and its file name extension, for an image in [-1, 1].

    Voxels are 1 mm, since a generator has no spacing.

    Raises:
        InputError: No file format takes so many channels.
    """
    require_encodable(image.shape)
    pixels = ((image.clamp(-1, 1) + 1) / 2).cpu().numpy()
    if pixels.ndim == 3:
        return png((pixels * WHITE_8BIT).round().astype(np.uint8)), "png"
    levels = np.moveaxis((pixels * WHITE_12BIT).round().astype(np.int16), 0, -1)
    return _nifti(levels[..., 0] if len(pixels) == 1 else levels), "nii.gz"


def encoded_mask(mask: Int[Tensor, "*space"]) -> tuple[bytes, str]:
    """The bytes of a file of class numbers, 0 to 254, and its file name extension."""
    numbers = mask.cpu().numpy().astype(np.uint8)
    return (png(numbers), "png") if numbers.ndim == 2 else (_nifti(numbers), "nii.gz")


def decoded(path: Path) -> Float[Tensor, "c *space"]:
    """The image of a file of `encoded`, in [-1, 1] up to the file's levels.

    Raises:
        InputError: It cannot be read.
    """
    try:
        pixels = read_image(path)
    except ImageError as e:
        raise InputError(f"{path} cannot be read ({e}); generate the set again") from e
    return torch.from_numpy(pixels) * (2 / (WHITE_8BIT if path.suffix == ".png" else WHITE_12BIT)) - 1


def png(levels: np.ndarray) -> bytes:
    """Of bytes (h, w), or (c, h, w) with 1 or 3 channels."""
    from PIL import Image

    grey = levels.ndim == 2 or len(levels) == 1
    file = io.BytesIO()
    Image.fromarray(levels.reshape(levels.shape[-2:]) if grey else np.moveaxis(levels, 0, -1)).save(file, "PNG")
    return file.getvalue()


def _nifti(levels: np.ndarray) -> bytes:
    import nibabel

    # No time in gzip's header, so that equal volumes are equal files.
    return gzip.compress(nibabel.Nifti1Image(levels, np.eye(4)).to_bytes(), mtime=0)
