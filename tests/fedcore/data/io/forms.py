"""One volume, written in the file formats of hospitals, each with positions as DICOM and NIfTI define them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACE, MM, ORIGIN = (6, 7, 5), np.array([0.75, 1.25, 2.5]), np.array([-3.0, 4.0, 10.0])
BODY = np.random.default_rng(0).integers(-900, 900, SPACE).astype(np.float32)
MASK = np.zeros(SPACE, np.uint8)
MASK[1:3, 4:6, 0:2], MASK[4, 1:3, 3] = 1, 2
BODY[MASK > 0] += 2000
AFFINE = np.diag([*MM, 1.0])
AFFINE[:3, 3] = ORIGIN

PLANES = {
    # the RAS axes of slices, rows and columns; -1 against the axis: the way scanners store them
    "axial": ((2, 1), (1, -1), (0, -1)),
    "sagittal": ((0, 1), (2, -1), (1, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
}


def stored(volume: np.ndarray, plane: str) -> np.ndarray:
    """(slice, row, column), slices along DICOM's normal."""
    axes = PLANES[plane]
    return np.flip(volume.transpose([axis for axis, _ in axes]), [at for at, (_, sign) in enumerate(axes) if sign < 0])


def direction(axis: int, sign: int) -> np.ndarray:
    """In DICOM's axes: to the left, the back and the head."""
    return sign * np.eye(3)[axis] * (-1 if axis < 2 else 1)


def nifti(path: Path, array: np.ndarray = BODY, codes: str = "RAS", tilt: float = 0.0, named: bool = True) -> Path:
    """Voxels in the order of `codes`; tilted in space, or without an affine."""
    image = nibabel.Nifti1Image(array, turned(tilt) @ AFFINE)
    there = nibabel.orientations.axcodes2ornt(codes)
    image = image.as_reoriented(there) if codes != "RAS" else image
    out = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine if named else None)
    nibabel.save(out, path)
    return path


def turned(tilt: float) -> np.ndarray:
    c, s = np.cos(tilt), np.sin(tilt)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def blank(kind: str, rows: int, columns: int, **tags: Any) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = kind, meta.MediaStorageSOPInstanceUID, "CT"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = "1.2.1", "1.2.2", "1.2.3"
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber",
                 "StudyDate", "StudyTime", "ReferringPhysicianName", "Manufacturer"):  # fmt: skip
        setattr(file, name, "")
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 0
    for name, value in tags.items():
        setattr(file, name, value)
    return file


def save(file: FileDataset, samples: np.ndarray, path: Path) -> None:
    file.PixelData = samples.astype("<u2").tobytes()
    file["PixelData"].VR = "OW"
    file.save_as(path, enforce_file_format=True)


def corners(plane: str) -> tuple[np.ndarray, list[float], np.ndarray]:
    """Position of the first pixel of each slice; directions along row and column; mm along the three axes."""
    axes = PLANES[plane]
    first = ORIGIN + MM * [
        SPACE[axis] - 1 if next(sign for a, sign in axes if a == axis) < 0 else 0 for axis in range(3)
    ]
    (slices, up), rows, columns = axes
    places = np.array([first + up * MM[slices] * k * np.eye(3)[slices] for k in range(SPACE[slices])])
    along = [*direction(*columns).tolist(), *direction(*rows).tolist()]
    return places * [-1, -1, 1], along, MM[[axis for axis, _ in axes]]


def series(
    folder: Path, plane: str = "axial", volume: np.ndarray = BODY, order: Sequence[int] | None = None, **changed: Any
) -> Path:
    """One file per slice, numbered in `order`, by default against positions; `changed` tags may be lists."""
    folder.mkdir(parents=True)
    places, along, mm = corners(plane)
    array = stored(volume, plane)
    for number, at in enumerate(range(len(array))[::-1] if order is None else order):
        tags = {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "InstanceNumber": number + 1, "SeriesNumber": 1,
                "ImagePositionPatient": places[at].tolist(), "ImageOrientationPatient": along,
                "PixelSpacing": mm[1:].tolist(), "SliceThickness": 9, "RescaleSlope": 1,
                "RescaleIntercept": -1024}  # fmt: skip
        tags |= {name: value[number] if isinstance(value, list) else value for name, value in changed.items()}
        kept = {name: value for name, value in tags.items() if value != "absent"}
        save(blank(CTImageStorage, *array.shape[1:], **kept), array[at] + 1024, folder / f"{number}.dcm")
    return folder


def item(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def frames(order: Sequence[int], plane: str = "axial") -> tuple[Dataset, list[Dataset], np.ndarray]:
    """The shared functional groups, those of each frame, and the stored pixels of the slices in this order."""
    places, along, mm = corners(plane)
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=mm[1:].tolist(), SliceThickness=9)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=along)],
        PixelValueTransformationSequence=[item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")],
    )
    own = [item(PlanePositionSequence=[item(ImagePositionPatient=places[at].tolist())]) for at in order]
    return shared, own, stored(BODY, plane)[list(order)] + 1024


def enhanced(path: Path, shared: Dataset, own: list[Dataset], samples: np.ndarray, **tags: Any) -> Path:
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": own}
    file = blank(EnhancedCTImageStorage, *samples.shape[1:], NumberOfFrames=len(samples), **groups, **tags)
    save(file, samples, path)
    return path


def segmentation(path: Path, folder: Path, mask: np.ndarray = MASK, plane: str = "axial", kind: str = "BINARY") -> Path:
    """A DICOM SEG of a series that `series` made; frames without a segment are left out."""
    import highdicom
    import pydicom
    from pydicom.sr.codedict import codes

    sources = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda file: -int(file.InstanceNumber))
    described = [
        highdicom.seg.SegmentDescription(
            n, f"structure {n}", codes.SCT.Organ, codes.SCT.Liver, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for n in (1, 2)
    ]
    pixels = stored(mask, plane)
    if kind == "FRACTIONAL":
        pixels = np.stack([pixels == 1, pixels == 2], axis=-1).astype(np.float32)
    elif kind == "overlapping":
        pixels, kind = np.stack([pixels > 0, pixels == 2], axis=-1).astype(np.uint8), "BINARY"
    made = highdicom.seg.Segmentation(
        sources, np.ascontiguousarray(pixels), kind, described, generate_uid(), 2, generate_uid(), 1, "m", "m", "1", "1"
    )
    made.save_as(path)
    return path
