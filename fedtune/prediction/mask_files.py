"""Masks of class numbers as files with the geometry of the image they belong to."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fedcore.data.io.affine import grid_of
from fedcore.data.io.nifti import SUFFIXES, affines, nifti_header
from fedcore.data.io.readers import kind_of
from fedcore.files.writing import write_atomically

_PLACE = {
    "sform": ("sform_code", "srow_x", "srow_y", "srow_z"),
    "qform": ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
}
"""What each of the affines that a header of NIfTI may hold is made of."""


def write_mask(folder: Path, image: Path, mask: UInt8[np.ndarray, "*space"], named: str | None = None) -> Path:
    """Writes the mask, on the axes of `read_image`, under the image's name or as `named`, and returns its path.

    Beside NIfTI it is NIfTI with the image's own affine and order of voxels; beside a DICOM volume that says where it
    lies, NIfTI of RAS; beside other volumes .npy in the order of the image's file; beside pictures and DICOM of one
    slice a PNG of class numbers in the order of their pixels, which looks black.
    """
    grid = grid_of(image)
    if kind_of(image) == "NIfTI":
        assert grid is not None, "NIfTI has a grid"
        data, ending = _like(image, grid.from_ras(mask)), ".nii.gz"
    elif mask.ndim == 2:
        data, ending = _png(mask if grid is None else grid.from_ras(mask)[0]), ".png"
    elif grid is not None and (affine := grid.ras_affine) is not None:
        data, ending = _nifti(mask, affine), ".nii.gz"
    else:
        data, ending = _npy(mask), ".npy"
    path = folder / f"{named or stem(image.name)}{ending}"
    write_atomically(path, data)
    return path


def stem(name: str) -> str:
    """A file's name without what says its kind; other dots stay, of which names of DICOM files are made."""
    for ending in (*SUFFIXES, ".npy", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _like(image: Path, stored: UInt8[np.ndarray, "i j k"]) -> bytes:
    """Of the image's header its geometry alone: descriptions, file names and extensions may name a patient."""
    import nibabel

    source, header = nifti_header(image), nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(stored.shape)
    header["pixdim"][:4] = source["pixdim"][:4]
    for name in (name for affine in affines(source) for name in _PLACE[affine]):
        header[name] = source[name]
    header["xyzt_units"] = source.get("xyzt_units", 0)
    return gzip.compress(nibabel.Nifti1Image(stored, None, header).to_bytes(), mtime=0)


def _nifti(mask: UInt8[np.ndarray, "x y z"], affine: np.ndarray) -> bytes:
    import nibabel

    made = nibabel.Nifti1Image(mask, affine)
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
