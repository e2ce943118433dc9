"""The pixels of a DICOM file: intensities in the units of the modality, bright means dense.

Read with pydicom itself: MONAI's reader sorts a series by InstanceNumber (and omits slices without one), ignores
MONOCHROME1 and modality tables, and converts the whole header to JSON. Nothing but pixels and geometry is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from fedcore.data.io.error import ImageError
from fedcore.data.io.limits import require_voxels

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_NO_IMAGES = {
    **dict.fromkeys(SEGMENTATIONS, "a segmentation (DICOM SEG), not an image; use it in the column mask of its image"),
    "1.2.840.10008.5.1.4.1.1.481.3": "contours (RTSTRUCT) without pixels; convert them to NIfTI, for instance with "
    "dcmrtstruct2nii or plastimatch",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "tiles of a whole slide image; export a region or a level of it as PNG or TIFF",
    "1.2.840.10008.1.3.10": "DICOMDIR, a table of contents; use the folder of a series, or the file of an image",
}
"""Storage classes without an image (DICOM PS3.4, annex B), and the error for each."""
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_QUANTITIES = ("CT", "PT")
"""Modalities whose values are measurements (Hounsfield, activity), which MONOCHROME1 does not invert."""


def is_dicom(path: Path) -> bool:
    """From its first bytes: the mark after a preamble or, for scanners that omit it, a first element of group 2 or
    8."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_dataset(path: Path, **options: Any) -> Any:
    """The data set; None if the file is not DICOM. `options` are those of pydicom's `dcmread`."""
    import pydicom
    from pydicom import uid

    if not is_dicom(path):
        return None
    file = pydicom.dcmread(path, force=True, **options)
    if not storage_class(file) and "Rows" not in file:
        return None
    if "TransferSyntaxUID" not in file.file_meta:
        implicit, little = file.original_encoding
        plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        file.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain
    return file


def storage_class(file: Any) -> str:
    """Its storage class; empty if it has none."""
    return str(file.file_meta.get("MediaStorageSOPClassUID") or file.get("SOPClassUID") or "")


def require_image(file: Any) -> None:
    """Raises ImageError for a file without an image, with advice, and for an image that is too large."""
    if text := _NO_IMAGES.get(storage_class(file)):
        raise ImageError(text)
    if not any(name in file for name in _PIXELS):
        raise ImageError("DICOM without pixels")
    shape = [file.get(name) or 1 for name in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")]
    require_voxels(shape, "DICOM")


@dataclass(frozen=True)
class Samples:
    """The frames of one file."""

    values: Float32[np.ndarray, "c d h w"]
    """In the units of the modality."""
    padding: Bool[np.ndarray, "c d h w"] | None
    """Pixels without a measurement (PixelPaddingValue), such as those around the field of view of a CT."""
    mirror: float | None
    """For MONOCHROME1, where bright means thin: sum of the least and the greatest value that can be stored."""


def samples(file: Any) -> Samples:
    """Decoded pixels; raises ImageError if no decoder is installed."""
    from pydicom.pixels import apply_color_lut, pixel_array

    require_image(file)
    try:
        pixels = pixel_array(file)
    except (RuntimeError, NotImplementedError):
        syntax = file.file_meta.TransferSyntaxUID.name
        raise ImageError(f"no decoder for {syntax}; decompress the file or install pylibjpeg[all]") from None
    photometric = file.get("PhotometricInterpretation", "")
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, file)
    if pixels.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return Samples(np.moveaxis(pixels.reshape(-1, *pixels.shape[-3:]), -1, 0).astype(np.float32), None, None)
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    scales = [_scale(file, frame) for frame in range(len(pixels))]
    inverted = photometric == "MONOCHROME1" and file.get("Modality") not in _QUANTITIES
    mirror = max(_mirror(file, *scale) for scale in scales) if inverted else None
    return Samples(_scaled(file, pixels, scales)[None], _padding(file, pixels), mirror)


def to_volume(parts: Sequence[Samples]) -> Float32[np.ndarray, "c d h w"]:
    """Frames of several files as one volume: all are inverted about one value and so stay comparable; padding becomes
    the least value of the other pixels."""
    values = np.concatenate([part.values for part in parts], axis=1)
    if mirrors := [part.mirror for part in parts if part.mirror is not None]:
        values = max(mirrors) - values
    if any(part.padding is not None for part in parts):
        nothing = np.zeros(1, bool)
        padding = np.concatenate(
            [np.broadcast_to(nothing if p.padding is None else p.padding, p.values.shape) for p in parts], axis=1
        )
        if not padding.all():
            values[padding] = values[~padding].min()
    return values


def groups(file: Any, frame: int) -> list[Any]:
    """The functional groups of a frame: its own, then the shared ones."""
    own, shared = (file.get(f"{name}FunctionalGroupsSequence") for name in ("PerFrame", "Shared"))
    return [*([own[frame]] if own and frame < len(own) else []), *(shared or [])]


def frame_attribute(file: Any, frame: int, sequence: str, name: str) -> Any:
    """An attribute of a frame, from its functional groups or the file's root; None if it is missing or empty."""
    for group in groups(file, frame):
        if (items := group.get(sequence)) and items[0].get(name) not in (None, ""):
            return items[0].get(name)
    found = file.get(name)
    return None if found == "" else found


def _scale(file: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 if they are missing or empty."""
    sequence = "PixelValueTransformationSequence"
    slope, intercept = (frame_attribute(file, frame, sequence, f"Rescale{name}") for name in ("Slope", "Intercept"))
    if slope is None:
        slope = file.get("DoseGridScaling")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _scaled(file: Any, pixels: np.ndarray, scales: Sequence[tuple[float, float]]) -> Float32[np.ndarray, "d h w"]:
    if file.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(pixels, file), np.float32)
    values = np.empty(pixels.shape, np.float32)
    for frame, (slope, intercept) in enumerate(scales):
        values[frame] = pixels[frame] * slope + intercept
    return values


def _mirror(file: Any, slope: float, intercept: float) -> float:
    """Of the range of the stored bits, not of the image, so that slices of one series stay comparable."""
    ends = -1 if file.PixelRepresentation else 2 ** int(file.BitsStored) - 1
    return ends * slope + 2 * intercept


def _padding(file: Any, pixels: np.ndarray) -> Bool[np.ndarray, "1 d h w"] | None:
    one = file.get("PixelPaddingValue")
    if not isinstance(one, int):  # missing, or a floating-point number, which does not mark integers
        return None
    other = file.get("PixelPaddingRangeLimit")
    ends = [_signed(file, value) for value in (one, other) if isinstance(value, int)]
    found: np.ndarray = (pixels >= min(ends)) & (pixels <= max(ends))
    return found[None]


def _signed(file: Any, value: int) -> int:
    """Some programs write a negative number as the unsigned one of equal bits."""
    bits = int(file.BitsAllocated)
    return value - 2**bits if file.PixelRepresentation and value >= 2 ** (bits - 1) else value
