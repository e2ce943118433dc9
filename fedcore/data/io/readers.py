"""One image file (or DICOM series) to one array of raw intensities, or a short reason why not.

Errors never hold a path or anything from a header: their text may be shown, logged and sent on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from jaxtyping import Float32, UInt8

from fedcore.data.io import npz
from fedcore.data.io.dicom import read_dicom, read_series
from fedcore.data.io.fault import ImageFault
from fedcore.data.io.limits import require_voxels

__all__ = ["ImageFault", "kind_of", "read_image", "read_mask"]

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
_DICOM = ("", ".dcm", ".dicom", ".ima")
_silence, _silent = Lock(), ExitStack()
_readers = 0


def read_image(path: Path, member: str | None = None, index: int | None = None) -> Float32[np.ndarray, "c *space"]:
    """Raw intensities of one image, channels first.

    - PNG, JPEG, BMP, TIFF (8, 16, 32 bits): (c, h, w), upright as a viewer shows it; alpha is dropped, a
      palette becomes RGB.
    - .npy and items of an .npz: (h, w); (h, w, 3|4); (1|3, h, w); else (d, h, w). With four axes:
      (d, h, w, 3|4) or (1|3, d, h, w). A last axis of 3 or 4 is colour before a first axis of 1 or 3 is; a
      fourth channel (alpha) is dropped.
    - NIfTI: turned to RAS, (1, x, y, z); a fourth axis of at most 4 becomes the channels; one slice is
      (1, x, y).
    - DICOM: in the units of its rescale slope and intercept, bright is dense; (c, h, w), several frames
      (c, d, h, w). A folder is a series, sorted by position.

    Raises:
        ImageFault: with a text that names neither the path nor anything from a header.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ImageFault("zero bytes")
    kind, read = _reader(path, member, index)
    return _checked(_guarded(kind, lambda: read(path)))


def read_mask(path: Path) -> UInt8[np.ndarray, "*space"]:
    """Class numbers 0..254 per pixel, 255 unlabelled; a mask of just 0 and 255 is a yes/no picture: 0 and 1.

    A palette picture gives its indices; an axis of 3 or 4 in a .npy is space as any other. Raises ImageFault also when
    a value is no whole number in 0..255.
    """
    if path.suffix.lower() in _PICTURES:
        values = _checked(_guarded("mask", lambda: _picture(path, palette=True)))
    elif path.suffix.lower() == ".npy":
        values = _checked(_guarded("npy", lambda: _npy(path, colours=False)))
    else:
        values = read_image(path)
    if (values != values[:1]).any():
        raise ImageFault("mask in colour; a mask holds one class number a pixel")
    with np.errstate(invalid="ignore"):
        labels = np.asarray(values[0].astype(np.uint8))
    if (labels != values[0]).any():
        raise ImageFault("mask values must be whole numbers in 0..255")
    return labels // np.uint8(255) if np.isin(labels, (0, 255)).all() else labels


def kind_of(path: Path) -> str:
    """DICOM, DICOM series, NIfTI, npy or a kind of picture. Raises ImageFault where it is none."""
    return _reader(path, None, None)[0]


def _reader(path: Path, member: str | None, index: int | None) -> tuple[str, Callable[[Path], np.ndarray]]:
    name, suffix = path.name.lower(), path.suffix.lower()
    if path.is_dir():
        return "DICOM series", read_series
    if suffix in _PICTURES:
        return _PICTURES[suffix], _picture
    if member is not None and index is not None:
        return "npz", lambda path: _channels_first(npz.item(path, member, index))
    if suffix == ".npy":
        return "npy", _npy
    if name.endswith((".nii", ".nii.gz")):
        return "NIfTI", _nifti
    if suffix in _DICOM or suffix[1:].isdigit():  # names such as 1.2.840.113619.2.5
        return "DICOM", read_dicom
    known = f"{', '.join(_PICTURES)}, .npy, .npz, .nii, .nii.gz, .dcm"
    raise ImageFault(f"unknown kind of file, by the end of its name; known: {known}")  # which may hold a name


def _guarded(kind: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Decoders of damaged files raise whatever they stumbled on, header values in the text: none gets out."""
    try:
        with _quiet():
            return read()
    except ImageFault:
        raise
    except MemoryError:
        raise ImageFault(f"more than this machine's memory holds ({kind})") from None
    except OSError as error:
        reason = f"not readable: {error.strerror}" if error.strerror else f"truncated or unreadable ({kind})"
        raise ImageFault(reason) from None
    except Exception:
        raise ImageFault(f"truncated or unreadable ({kind})") from None


def _checked(image: np.ndarray) -> Float32[np.ndarray, "c *space"]:
    if image.size == 0:
        raise ImageFault("empty image (0 pixels)")
    if image.dtype.kind not in "buif":
        raise ImageFault(f"pixels must be real numbers, got {image.dtype.name}")
    with np.errstate(over="ignore"):
        image = np.ascontiguousarray(image, dtype=np.float32)
    if bad := int((~np.isfinite(image)).sum()):
        raise ImageFault(f"NaN or infinite pixels ({bad} of {image.size})")
    return image


def _picture(path: Path, palette: bool = False) -> np.ndarray:
    from monai.data.image_reader import PILReader
    from PIL import Image

    def upright(picture: Any) -> Any:
        from PIL import ImageOps

        if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
            raise ImageFault(f"{picture.n_frames} pages; one picture a file, or a volume as .npy or NIfTI")
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("1", "L", "I", "F", "RGB") or picture.mode.startswith("I;"):
            return picture
        if picture.mode == "P" and palette:
            return picture
        return picture.convert("L" if picture.mode in ("LA", "La") else "RGB")

    def opened(stream: IO[bytes]) -> Any:
        try:
            # By content a file may be what its name does not say: Pillow knows kinds that start other programs.
            return reader.read((stream,), formats=sorted({*_PICTURES.values()}))
        except Image.DecompressionBombError:
            raise ImageFault(f"more pixels than a picture may have, {2 * (Image.MAX_IMAGE_PIXELS or 0):,}") from None

    reader = PILReader(converter=upright, reverse_indexing=False)  # keep rows first, as in the picture
    with path.open("rb") as stream:  # the reader itself would leave the file of a damaged picture open
        pixels = np.asarray(reader.get_data(opened(stream))[0])
    return np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]


def _npy(path: Path, colours: bool = True) -> np.ndarray:
    from monai.data.image_reader import NumpyReader

    with path.open("rb") as stream:
        npz.require_whole(stream, path.stat().st_size)
    reader = NumpyReader()  # refuses pickled objects
    array = np.asarray(reader.get_data(reader.read(path))[0])
    if colours:
        return _channels_first(array)
    return array if array.ndim > 2 and array.shape[0] == 1 else array[None]


def _channels_first(array: np.ndarray) -> np.ndarray:
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


def _nifti(path: Path) -> np.ndarray:
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the decoders say about odd headers, which may quote patient data.

    `warnings.catch_warnings` is not safe between threads: the first reader in sets it, the last one out
    undoes it.
    """
    global _readers
    with _silence:
        if _readers == 0:
            from nibabel.imageglobals import LoggingOutputSuppressor

            _silent.enter_context(LoggingOutputSuppressor())
            _silent.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(pydicom|monai|nibabel|PIL)\b")
        _readers += 1
    try:
        yield
    finally:
        with _silence:
            _readers -= 1
            if _readers == 0:
                _silent.close()
