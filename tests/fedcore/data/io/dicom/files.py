"""Small DICOM files and series without geometry but their positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

GREYSCALE = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns, no symmetry


def dicom(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = MRImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.PatientName = "Secret^Name"
    file.Rows, file.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = pixels.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, order: list[int], **tags: object) -> Path:
    folder.mkdir()
    for at, place in enumerate(order):
        geometry = {
            "ImagePositionPatient": [0, 0, 2.5 * place],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        }
        shared = {"SeriesInstanceUID": "1.2.3", "InstanceNumber": at + 1}
        dicom(folder / f"{at}.dcm", GREYSCALE + 100 * place, **{**geometry, **shared, **tags})
    return folder
