"""Masks of class numbers as files with the geometry of the image they belong to."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.affine import CANONICAL, affine_of
from fedcore.files import write_atomically


def write_mask(folder: Path, image: Path, mask: UInt8[np.ndarray, "*space"], named: str | None = None) -> Path:
    """Writes the mask under the image's name, or as `named`, and returns its path.

    Beside NIfTI it is NIfTI with the image's own affine and order of voxels; beside a DICOM series whose slices say
    where they lie, NIfTI of (column, row, slice); beside other volumes .npy in the order of `read_image`; beside
    pictures a PNG of class numbers, which looks black.
    """
    name = image.name
    if name.lower().endswith((".nii", ".nii.gz")):
        data, ending = _like(image, mask), ".nii.gz"
    elif mask.ndim == 3 and (affine := affine_of(image)) is not None:
        data, ending = _nifti(mask, affine), ".nii.gz"
    elif mask.ndim == 2:
        data, ending = _png(mask), ".png"
    else:
        data, ending = _npy(mask), ".npy"
    path = folder / f"{named or stem(name)}{ending}"
    write_atomically(path, data)
    return path


def stem(name: str) -> str:
    """A file's name without what says its kind; other dots stay, of which names of DICOM files are made."""
    for ending in (".nii.gz", ".nii", ".npy", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _like(image: Path, mask: UInt8[np.ndarray, "*space"]) -> bytes:
    import gzip

    import nibabel
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    source: Any = nibabel.load(image)
    back = ornt_transform(CANONICAL, io_orientation(source.affine))
    volume = apply_orientation(mask.reshape(mask.shape + (1,) * (3 - mask.ndim)), back)
    # Of the image's header its geometry alone: descriptions, file names and extensions may name a patient.
    made = nibabel.Nifti1Image(np.ascontiguousarray(volume), source.affine)
    made.header.set_xyzt_units(*_units(source.header))
    for of in ("qform", "sform"):
        affine, code = getattr(source, f"get_{of}")(coded=True)
        getattr(made, f"set_{of}")(affine if code else None, int(code), update_affine=False)
    return gzip.compress(made.to_bytes(), mtime=0)


def _units(header: Any) -> tuple[str, str]:
    """Of space and of time, where the header says them in a way that is known."""
    try:
        space, time = header.get_xyzt_units()
    except (KeyError, AttributeError):
        return "unknown", "unknown"
    return space, time


def _nifti(mask: UInt8[np.ndarray, "d h w"], affine: np.ndarray) -> bytes:
    import gzip

    import nibabel

    made = nibabel.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0)), affine[:, [2, 1, 0, 3]])
    made.header.set_xyzt_units("mm")
    return gzip.compress(made.to_bytes(), mtime=0)


def _png(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    from PIL import Image

    data = BytesIO()
    Image.fromarray(mask).save(data, "PNG")
    return data.getvalue()


def _npy(mask: UInt8[np.ndarray, "d h w"]) -> bytes:
    data = BytesIO()
    np.save(data, mask)
    return data.getvalue()
