"""DICOM files and series to arrays of dense-is-bright intensities.

Read with pydicom itself: MONAI's reader of it orders a series by InstanceNumber (and drops slices that have
none), knows no MONOCHROME1 and no modality tables, and turns the whole header to JSON on the way.
Nothing but pixels and geometry leaves this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.fault import ImageFault
from fedcore.data.io.limits import require_voxels


def read_dicom(path: Path) -> np.ndarray:
    """(c, h, w), or (c, d, h, w) of several frames, in the units of the modality (Hounsfield for CT)."""
    import pydicom

    return _pixels(pydicom.dcmread(path))


def read_series(folder: Path) -> np.ndarray:
    """The slices of one series, (c, d, h, w), sorted along the slices' normal.

    Raises:
        ImageFault: no DICOM file, several series, unequal slices, or slices that nothing puts in an order.
    """
    import pydicom
    from pydicom.misc import is_dicom

    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    if not slices:
        raise ImageFault("a folder without DICOM files")
    if (series := len({str(s.get("SeriesInstanceUID", "")) for s in slices})) > 1:
        raise ImageFault(f"{series} series in one folder; a folder holds one")
    arrays = [_pixels(slices[position]) for position in _order(slices)]
    if len({array.shape for array in arrays}) > 1:
        raise ImageFault("slices of unequal shape in one series")
    return np.stack(arrays, axis=1) if len(arrays) > 1 else arrays[0]


def series_affine(folder: Path) -> np.ndarray | None:
    """(slice, row, column) of the volume that `read_series` makes to mm from right, back and below (RAS), 4 x 4.

    None where headers do not tell, or slices are not evenly apart. The folder must be one that could be read.
    """
    import pydicom
    from pydicom.misc import is_dicom

    needed = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    slices = [pydicom.dcmread(path, specific_tags=needed) for path in files]
    if len(slices) < 2 or not all(each.get(name) for each in slices for name in needed):
        return None
    along_row, along_column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in slices[0].PixelSpacing)
    corners = np.array([slices[at].ImagePositionPatient for at in _order(slices)], dtype=float)
    steps = np.diff(corners, axis=0)
    step = steps.mean(axis=0)
    if np.abs(steps - step).max() > 0.01 * np.linalg.norm(step):
        return None
    affine = np.eye(4)
    affine[:3] = np.stack([step, along_column * between_rows, along_row * between_columns, corners[0]], axis=1)
    return np.diag([-1.0, -1, 1, 1]) @ affine  # DICOM counts from left, front and below


def _order(slices: Sequence[Any]) -> list[int]:
    """Positions of the slices from first to last: by place along the normal, else by instance number."""
    if all(s.get("ImagePositionPatient") and s.get("ImageOrientationPatient") for s in slices):
        rows, columns = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        normal = np.cross(rows, columns)
        places = [round(float(normal @ np.array(s.ImagePositionPatient, dtype=float)), 3) for s in slices]
    elif all(s.get("InstanceNumber") is not None for s in slices):
        places = [float(s.InstanceNumber) for s in slices]
    elif len(slices) == 1:
        places = [0.0]
    else:
        raise ImageFault("slices without position and instance number")
    if len(set(places)) < len(places):
        raise ImageFault("slices that share a place; a folder holds one volume")
    return sorted(range(len(slices)), key=places.__getitem__)


def _pixels(file: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    if "PixelData" not in file and "FloatPixelData" not in file and "DoubleFloatPixelData" not in file:
        raise ImageFault("DICOM without pixels")
    shape = [file.get(name) or 1 for name in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")]
    require_voxels(shape, "DICOM")
    try:
        pixels = pixel_array(file)
    except (RuntimeError, NotImplementedError):
        syntax = file.file_meta.TransferSyntaxUID.name
        raise ImageFault(f"no decoder for {syntax}; decompress the file or install pylibjpeg[all]") from None
    photometric = file.get("PhotometricInterpretation", "")
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, file)
    elif photometric == "MONOCHROME1":
        pixels = _inverted(pixels, bits=int(file.BitsStored), signed=bool(file.PixelRepresentation))
    if pixels.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return np.moveaxis(pixels, -1, 0)
    return np.asarray(apply_modality_lut(pixels, file))[None]


def _inverted(pixels: np.ndarray, *, bits: int, signed: bool) -> np.ndarray:
    """Mirrored within the stored range, not the image's own: slices of one series stay comparable."""
    return ((-1 if signed else 2**bits - 1) - pixels.astype(np.int64)).astype(np.int32)
