"""Synthetic images as DICOM files that are marked as synthetic."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fedcore.data.io.levels import WHITE_12BIT
from fedcore.data.preprocess.slices import volume_slices

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"
"""Storage classes (DICOM PS3.4, annex B): a single frame, and several frames of 16-bit words."""


def as_dicom(image: Float[Tensor, "c *space"], number: int, entropy: Sequence[str]) -> bytes:
    """A 12-bit greyscale secondary capture of an image in [-1, 1]. A volume, whose axes run to right, front and head,
    has one frame per axial slice, with its position. Voxels are 1 mm, as in `fedgen.synthetic.image_files`.

    SyntheticData (0008,001C) is YES. The attributes of patient and operator that the standard requires are present and
    empty, so that readers accept the file. UIDs depend on `entropy`, the digest of the whole set, and on the image's
    number alone: two sets share none.

    Raises:
        ValueError: The image is in colour.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    if len(image) != 1:
        raise ValueError(f"DICOM files take images of 1 channel, got {len(image)}")
    levels = ((image[0].clamp(-1, 1) + 1) / 2 * WHITE_12BIT).round().cpu().numpy().astype(np.uint16)
    levels = volume_slices(levels, 2, ras=True) if levels.ndim == 3 else levels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE if levels.ndim == 2 else MULTI_FRAME_WORD
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "image", str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID = generate_uid(entropy_srcs=[*entropy, "study"])
    made.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    made.SyntheticData, made.ImageType, made.ConversionType = "YES", ["DERIVED", "SECONDARY"], "SYN"
    made.Modality, made.Manufacturer, made.InstanceNumber = "OT", "fedpretrain", number
    for empty in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                  "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "PatientOrientation"):  # fmt: skip
        setattr(made, empty, None)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.Rows, made.Columns = levels.shape[-2:]
    if levels.ndim == 3:
        made.NumberOfFrames = len(levels)
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0, 1, "US"
        made.PresentationLUTShape, made.BurnedInAnnotation = "IDENTITY", "NO"
        made.FrameOfReferenceUID = generate_uid(entropy_srcs=[*entropy, "frame of reference"])
        _set_positions(made, levels.shape)
    made.PixelData = levels.tobytes()
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _set_positions(made: Any, frames: Sequence[int]) -> None:
    """Positions of frames (slice, row, column) of 1 mm, equal to those of the volume's NIfTI."""
    count, rows, columns = frames
    made.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(PixelSpacing=[1, 1], SliceThickness=1, SpacingBetweenSlices=1)],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        _item(PlanePositionSequence=[_item(ImagePositionPatient=[1 - columns, 1 - rows, at])]) for at in range(count)
    ]


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made
