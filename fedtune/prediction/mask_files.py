"""Writes masks of class numbers as files with the geometry of their image."""

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

_AFFINE_FIELDS = {
    "sform": ("sform_code", "srow_x", "srow_y", "srow_z"),
    "qform": ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
}
"""Header fields of the affines in a NIfTI header."""


def write_mask(folder: Path, image: Path, mask: UInt8[np.ndarray, "*space"], name: str | None = None) -> Path:
    """Writes the mask and returns its path.

    The format is that of the image:

    - NIfTI: NIfTI with the image's own affine and voxel order.
    - DICOM volume with a position: NIfTI in RAS.
    - Other volumes: .npy in the order of the image's file.
    - Pictures, and DICOM of one slice: PNG of class numbers in the order of their pixels, which looks black.

    Args:
        folder: Folder of the masks.
        image: File of the image, or folder of a series.
        mask: Class numbers, on the axes of `read_image`.
        name: Name of the file without extension; None: the image's.
    """
    grid = grid_of(image)
    if kind_of(image) == "NIfTI":
        assert grid is not None, "NIfTI has a grid"
        data, extension = _nifti_like(image, grid.from_ras(mask)), ".nii.gz"
    elif mask.ndim == 2:
        data, extension = _png(mask if grid is None else grid.from_ras(mask)[0]), ".png"
    elif grid is not None and (affine := grid.ras_affine) is not None:
        data, extension = _nifti(mask, affine), ".nii.gz"
    else:
        data, extension = _npy(mask), ".npy"
    path = folder / f"{name or strip_extension(image.name)}{extension}"
    write_atomically(path, data)
    return path


def strip_extension(name: str) -> str:
    """A file's name without a known extension; other dots stay, as in names of DICOM files."""
    for extension in (*SUFFIXES, ".npy", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom"):
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return name


def _nifti_like(image: Path, from_ras: UInt8[np.ndarray, "i j k"]) -> bytes:
    """With only the geometry of the image's header: descriptions, file names and extensions may name a patient."""
    import nibabel

    source, header = nifti_header(image), nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(from_ras.shape)
    header["pixdim"][:4] = source["pixdim"][:4]
    for name in (name for affine in affines(source) for name in _AFFINE_FIELDS[affine]):
        header[name] = source[name]
    header["xyzt_units"] = source.get("xyzt_units", 0)
    return gzip.compress(nibabel.Nifti1Image(from_ras, None, header).to_bytes(), mtime=0)


def _nifti(mask: UInt8[np.ndarray, "x y z"], affine: np.ndarray) -> bytes:
    import nibabel

    nifti = nibabel.Nifti1Image(mask, affine)
    nifti.header.set_xyzt_units("mm")
    return gzip.compress(nifti.to_bytes(), mtime=0)


def _png(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    from PIL import Image

    data = BytesIO()
    Image.fromarray(mask).save(data, "PNG")
    return data.getvalue()


def _npy(mask: UInt8[np.ndarray, "d h w"]) -> bytes:
    data = BytesIO()
    np.save(data, mask)
    return data.getvalue()
