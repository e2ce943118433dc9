"""Reads one image file (or DICOM series) as an array of raw intensities.

Errors never contain a path or anything from a header, since their text may be shown, logged and sent.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float32

from fedcore.data.io import npz
from fedcore.data.io.array import channels_first, read_npy
from fedcore.data.io.dicom.frames import read_dicom
from fedcore.data.io.dicom.series import read_series
from fedcore.data.io.error import ImageError
from fedcore.data.io.nifti import SUFFIXES, read_nifti
from fedcore.data.io.pictures.picture import PICTURES, read_picture

__all__ = ["ImageError", "kind_of", "read_image"]

Nan = Literal["stop", "minimum"]
"""What NaN pixels are: an error of the image, or its least value, since nothing was measured there."""
_Read = TypeVar("_Read")
_DICOM = ("", ".dcm", ".dicom", ".ima")
_ITK = "is not supported; convert it: SimpleITK.WriteImage(SimpleITK.ReadImage(file), 'image.nii.gz')"
_CONVERT = {
    **dict.fromkeys((".mgz", ".mgh"), "MGZ is not supported; convert it: mri_convert file.mgz image.nii.gz"),
    **dict.fromkeys((".nrrd", ".nhdr"), f"NRRD {_ITK}"),
    **dict.fromkeys((".mha", ".mhd"), f"MetaImage {_ITK}"),
    ".mnc": "MINC is not supported; convert it: mnc2nii file.mnc image.nii",
    ".par": "PAR/REC is not supported; convert it: dcm2niix file.par",
    ".rec": "PAR/REC is not supported; convert it: dcm2niix file.par",
}
_lock, _silenced = Lock(), ExitStack()
_readers = 0


def read_image(
    path: Path, member: str | None = None, index: int | None = None, nan: Nan = "stop"
) -> Float32[np.ndarray, "c *space"]:
    """Raw intensities of one image, channels first.

    - PNG, JPEG, BMP, TIFF: (c, h, w), upright as a viewer shows it, of any depth; alpha is removed, a palette becomes
      RGB. A TIFF whose 0 is white is inverted within its bits.
    - .npy and items of an .npz: see `channels_first`.
    - NIfTI, Analyze pairs and DICOM of several frames or, as a folder, of one series: (c, x, y, z), to the patient's
      right, to the front and to the head. Without an orientation as stored, for DICOM (c, slice, row, column). A
      fourth axis of NIfTI of at most 4 becomes the channels. A single slice is (c, h, w), as a viewer shows it: an
      axial one with the front on top and the patient's right at the left.
    - DICOM is in the units of its rescale slope and intercept, and bright means dense.

    Args:
        path: The file, or the folder of a DICOM series.
        member: The array in an .npz file.
        index: The item of that array.
        nan: What NaN pixels are.

    Raises:
        ImageError: With a text without the path and without anything from a header.
    """
    return checked(read_stored(path, member, index), nan)


def read_stored(path: Path, member: str | None = None, index: int | None = None) -> np.ndarray:
    """As `read_image`, without checks: numbers may be missing, not finite or not real."""
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError("zero bytes")
    kind, read = _reader(path, member, index)
    return guarded(kind, lambda: read(path))


def kind_of(path: Path) -> str:
    """DICOM, DICOM series, NIfTI, npy or a kind of picture. Raises ImageError for any other file."""
    return _reader(path, None, None)[0]


def _reader(path: Path, member: str | None, index: int | None) -> tuple[str, Callable[[Path], np.ndarray]]:
    name, suffix = path.name.lower(), path.suffix.lower()
    if path.is_dir():
        return "DICOM series", read_series
    if suffix in PICTURES:
        return PICTURES[suffix], read_picture
    if member is not None and index is not None:
        return "npz", lambda path: channels_first(npz.item(path, member, index))
    if suffix == ".npy":
        return "npy", read_npy
    if name.endswith(SUFFIXES):
        return "NIfTI", read_nifti
    if suffix in _DICOM or suffix[1:].isdigit():  # names such as 1.2.840.113619.2.5
        return "DICOM", read_dicom
    if advice := next((text for suffix, text in _CONVERT.items() if name.endswith(suffix)), None):
        raise ImageError(advice)
    known = f"{', '.join(PICTURES)}, .npy, .npz, .nii, .nii.gz, .hdr, .img, .dcm"
    raise ImageError(f"unknown kind of file; known suffixes: {known}")  # the suffix itself may contain a patient's name


def guarded(kind: str, read: Callable[[], _Read]) -> _Read:
    """Replaces the errors of decoders, whose text may contain header values, by ImageErrors."""
    try:
        with _quiet():
            return read()
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"larger than the memory of this machine ({kind})") from None
    except OSError as error:
        reason = f"not readable: {error.strerror}" if error.strerror else f"truncated or unreadable ({kind})"
        raise ImageError(reason) from None
    except Exception:
        raise ImageError(f"truncated or unreadable ({kind})") from None


def checked(image: np.ndarray, nan: Nan = "stop") -> Float32[np.ndarray, "c *space"]:
    if image.size == 0:
        raise ImageError("empty image (0 pixels)")
    if image.dtype.kind not in "buif":
        raise ImageError(f"pixels must be real numbers, got {image.dtype.name}")
    with np.errstate(over="ignore"):
        image = np.ascontiguousarray(image, dtype=np.float32)
    if np.isfinite(image).all():
        return image
    missing = np.isnan(image)
    if bad := int((~np.isfinite(image) & ~missing).sum()):  # of unknown size, so no option replaces them
        raise ImageError(f"infinite pixels, or above 3.4e38 ({bad} of {image.size})")
    if missing.all():
        raise ImageError("all pixels are NaN")
    if nan == "stop":
        count = f"{missing.sum()} of {image.size}"
        raise ImageError(f"NaN pixels ({count}); data.nan minimum replaces them by the image's least value")
    return np.where(missing, image[~missing].min(), image)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warnings of decoders about unusual headers, which may quote patient data.

    `warnings.catch_warnings` is not thread-safe: the first of concurrent readers sets it, the last one undoes it.
    """
    global _readers
    with _lock:
        if _readers == 0:
            from nibabel.imageglobals import LoggingOutputSuppressor

            _silenced.enter_context(LoggingOutputSuppressor())
            _silenced.enter_context(warnings.catch_warnings())
            _silenced.enter_context(_without_log("tifffile"))
            warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|monai|nibabel|PIL|tifffile)\b")
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _silenced.close()


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
