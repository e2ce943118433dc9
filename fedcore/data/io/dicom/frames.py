"""One DICOM file of one frame or many to an array, its frames in order of where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.dicom.image import groups, joined, opened, require_image, samples, told
from fedcore.data.io.dicom.planes import Plane, Stack, stacked
from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid

TRAITS = (
    "AcquisitionNumber", "ComplexImageComponent", "DiffusionBValue", "EchoNumbers", "EchoTime", "EffectiveEchoTime",
    "ImageType", "InStackPositionNumber", "NominalCardiacTriggerDelayTime", "StackID", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "TriggerTime",
)  # fmt: skip
"""Names of attributes that tell images of one place apart; what they hold is never told."""
_FILMS = ("US", "IVUS", "XA", "RF", "ES", "XC", "GM", "SM", "OP")
"""Modalities whose frames follow one another in time unless they say where they lie."""
_DEPTHS = {0x00540080, 0x00182005, 0x3004000C, 0x52009230}
"""What frames of a volume are counted by (FrameIncrementPointer); others are times, angles, energies."""


def read_dicom(path: Path) -> np.ndarray:
    """(c, h, w), or of several frames (c, x, y, z); (c, d, h, w) where nobody knows where they lie."""
    file = required(path)
    require_image(file)
    stack = stack_of(file)
    return stack.grid.turned(joined([samples(file)])[:, list(stack.order)])


def dicom_grid(path: Path) -> Grid:
    """The file must be one that can be read."""
    return stack_of(required(path, stop_before_pixels=True)).grid


def required(path: Path, **how: Any) -> Any:
    """The data set of a file; raises ImageError where it is no DICOM."""
    file = opened(path, **how)
    if file is None:
        raise ImageError("truncated or unreadable (DICOM): it does not begin as one")
    return file


def stack_of(file: Any) -> Stack:
    """Raises ImageError where frames are no volume: of a film, say."""
    count = int(file.get("NumberOfFrames") or 1)
    planes = [plane(file, frame) for frame in range(count)]
    if count > 1 and not any(one.located for one in planes):
        _require_no_film(file, count)
    return stacked(planes)


def plane(file: Any, frame: int = 0) -> Plane:
    """What the header says of a frame."""
    position = _numbers(told(file, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    directions = _numbers(told(file, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    several = int(file.get("NumberOfFrames") or 1) > 1
    along = None if directions is None else directions.reshape(2, 3)
    if several and position is not None and not _each_has_a_place(file):
        position = _offset(file, frame, position, along)
    return Plane(
        shape=(int(file.Rows), int(file.Columns)),
        number=float(frame) if several else _number(file.get("InstanceNumber")),
        position=position,
        directions=along,
        mm=spacing(file, frame),
        thickness=_thickness(file, frame),
        traits=_traits(file, frame, several),
    )


def spacing(file: Any, frame: int = 0) -> tuple[float, float] | None:
    """Between rows and between columns in mm: in the patient, else of a radiograph on its detector.

    Raises:
        ImageError: Pixels are not square and nothing says how large they are.
    """
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = _numbers(told(file, frame, "PixelMeasuresSequence", name), 2)
        if found is not None and found.min() > 0:
            return float(found[0]), float(found[1])
    ratio = _numbers(file.get("PixelAspectRatio"), 2)
    if ratio is not None and ratio[0] != ratio[1]:
        raise ImageError(f"pixels that are not square ({ratio[0]:g}:{ratio[1]:g}), of no size in mm; resample them")
    return None


def _thickness(file: Any, frame: int) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = _number(told(file, frame, "PixelMeasuresSequence", name))
        if found:
            return abs(found)
    return None


def _each_has_a_place(file: Any) -> bool:
    return any("PlanePositionSequence" in group for group in file.get("PerFrameFunctionalGroupsSequence") or [])


def _offset(file: Any, frame: int, position: np.ndarray, along: np.ndarray | None) -> np.ndarray | None:
    """Of frames that have one place together: of a dose by its offsets, of others unknown."""
    offsets = file.get("GridFrameOffsetVector")
    if along is None or not offsets or len(offsets) <= frame or float(offsets[0]) != 0:
        return None
    return np.asarray(position + float(offsets[frame]) * np.cross(*along))


def _require_no_film(file: Any, count: int) -> None:
    pointer = file.get("FrameIncrementPointer")
    counted = {int(tag) for tag in (pointer if isinstance(pointer, Iterable) else [pointer]) if tag is not None}
    if counted - _DEPTHS or file.get("CineRate") or (file.get("Modality") in _FILMS and not counted):
        raise ImageError(
            f"{count} frames that do not say where they lie, of a film or of several angles: time is no depth; save "
            "those that are wanted as pictures of their own"
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
    """None where the header has not so many numbers."""
    try:
        found = np.array([float(one) for one in value])
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def _number(value: Any) -> float | None:
    found = _numbers([value], 1)
    return None if found is None else float(found[0])
