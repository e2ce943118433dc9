"""One DICOM file of one frame or many to an array, with the frames sorted by position."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.dicom.image import frame_attribute, groups, read_dataset, require_image, samples, to_volume
from fedcore.data.io.dicom.slice_order import SliceHeader, SortedSlices, sort_slices
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid

TRAITS = (
    "AcquisitionNumber", "ComplexImageComponent", "DiffusionBValue", "EchoNumbers", "EchoTime", "EffectiveEchoTime",
    "ImageType", "InStackPositionNumber", "NominalCardiacTriggerDelayTime", "StackID", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "TriggerTime",
)  # fmt: skip
"""Attributes in which images at one position may differ; their values are never reported."""
_FILMS = ("US", "IVUS", "XA", "RF", "ES", "XC", "GM", "SM", "OP")
"""Modalities whose frames are a sequence in time unless they have a position."""
_DEPTHS = {0x00540080, 0x00182005, 0x3004000C, 0x52009230}
"""FrameIncrementPointer of frames in space; others are times, angles, energies."""


def read_dicom(path: Path) -> np.ndarray:
    """(c, h, w), or for several frames (c, x, y, z); (c, d, h, w) if they have no position."""
    file = require_dataset(path)
    require_image(file)
    frames = sort_frames(file)
    return frames.grid.to_ras(to_volume([samples(file)])[:, list(frames.order)])


def dicom_grid(path: Path) -> Grid:
    """The file must be readable."""
    return sort_frames(require_dataset(path, stop_before_pixels=True)).grid


def require_dataset(path: Path, **options: Any) -> Any:
    """The data set of a file, with options of pydicom's `dcmread`; raises ImageError if it is not DICOM."""
    file = read_dataset(path, **options)
    if file is None:
        raise ImageError("truncated or unreadable (DICOM): it does not start as a DICOM file")
    return file


def sort_frames(file: Any) -> SortedSlices:
    """Raises ImageError if frames are not a volume, such as those of a film."""
    count = int(file.get("NumberOfFrames") or 1)
    headers = [slice_header(file, frame) for frame in range(count)]
    if count > 1 and not any(header.has_position for header in headers):
        _require_no_film(file, count)
    return sort_slices(headers)


def slice_header(file: Any, frame: int = 0) -> SliceHeader:
    """The geometry of a frame."""
    position = _numbers(frame_attribute(file, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    directions = _numbers(frame_attribute(file, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    several = int(file.get("NumberOfFrames") or 1) > 1
    along = None if directions is None else directions.reshape(2, 3)
    if several and position is not None and not _has_frame_positions(file):
        position = _offset(file, frame, position, along)
    return SliceHeader(
        shape=(int(file.Rows), int(file.Columns)),
        number=float(frame) if several else _number(file.get("InstanceNumber")),
        position=position,
        directions=along,
        mm=spacing(file, frame),
        thickness=_thickness(file, frame),
        traits=_traits(file, frame, several),
    )


def spacing(file: Any, frame: int = 0) -> tuple[float, float] | None:
    """Between rows and between columns in mm: in the patient, else for a radiograph on its detector.

    Raises:
        ImageError: Pixels are not square and their size is unknown.
    """
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = _numbers(frame_attribute(file, frame, "PixelMeasuresSequence", name), 2)
        if found is not None and found.min() > 0:
            return float(found[0]), float(found[1])
    ratio = _numbers(file.get("PixelAspectRatio"), 2)
    if ratio is not None and ratio[0] != ratio[1]:
        raise ImageError(f"pixels are not square ({ratio[0]:g}:{ratio[1]:g}) and have no size in mm; resample them")
    return None


def _thickness(file: Any, frame: int) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = _number(frame_attribute(file, frame, "PixelMeasuresSequence", name))
        if found:
            return abs(found)
    return None


def _has_frame_positions(file: Any) -> bool:
    return any("PlanePositionSequence" in group for group in file.get("PerFrameFunctionalGroupsSequence") or [])


def _offset(file: Any, frame: int, position: np.ndarray, along: np.ndarray | None) -> np.ndarray | None:
    """Position of a frame in a file with one position for all: of a dose from its offsets, else unknown."""
    offsets = file.get("GridFrameOffsetVector")
    if along is None or not offsets or len(offsets) <= frame or float(offsets[0]) != 0:
        return None
    return np.asarray(position + float(offsets[frame]) * np.cross(*along))


def _require_no_film(file: Any, count: int) -> None:
    pointer = file.get("FrameIncrementPointer")
    counted = {int(tag) for tag in (pointer if isinstance(pointer, Iterable) else [pointer]) if tag is not None}
    if counted - _DEPTHS or file.get("CineRate") or (file.get("Modality") in _FILMS and not counted):
        raise ImageError(
            f"{count} frames without a position, of a film or of several angles, which are not a volume; save the "
            "frames to use as separate pictures"
        )


def _traits(file: Any, frame: int, several: bool) -> dict[str, str]:
    found = {name: str(file.get(name)) for name in TRAITS if name in file}
    if several:
        for group in reversed(groups(file, frame)):
            for element in group:
                if element.VR == "SQ" and element.value:
                    item = element.value[0]
                    found |= {name: str(item.get(name)) for name in TRAITS if name in item}
    return found


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """None unless the header has exactly `count` numbers."""
    try:
        found = np.array([float(one) for one in value])
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def _number(value: Any) -> float | None:
    found = _numbers([value], 1)
    return None if found is None else float(found[0])
