from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from fedcore.data.io.error import ImageError
from fedcore.data.io.levels import require_levels, white_level
from fedcore.data.io.pictures.greyscale import known_greyscale

GREYSCALE = np.arange(12, dtype=np.uint8).reshape(3, 4)


def dicom(path: Path, pixels: np.ndarray, stored: int) -> Path:
    from pydicom.dataset import FileMetaDataset

    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", f"1.2.{stored}"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * pixels.itemsize, stored, stored - 1
    made.PixelData = pixels.tobytes()
    path.parent.mkdir(exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def test_the_white_level_follows_from_the_kind_of_file(tmp_path: Path) -> None:
    """A set as it was generated, and as a hospital's programs convert it."""
    Image.fromarray(GREYSCALE).save(tmp_path / "a.png")
    Image.fromarray(np.stack([GREYSCALE] * 3, -1)).save(tmp_path / "colour.png")
    Image.fromarray(GREYSCALE.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    np.save(tmp_path / "a.npy", GREYSCALE)
    np.save(tmp_path / "wide.npy", GREYSCALE.astype(np.int16))
    np.savez(tmp_path / "a.npz", train_images=GREYSCALE[None])
    for name, kind in (("a", np.int16), ("narrow", np.uint8)):
        nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), kind), np.eye(4)), tmp_path / f"{name}.nii.gz")
    found = {
        "a.png": 255, "colour.png": 255, "wide.png": 65535, "a.npy": 255, "wide.npy": 4095, "a.nii.gz": 4095,
        "narrow.nii.gz": 255,
    }  # fmt: skip
    assert {name: white_level(tmp_path / name) for name in found} == found
    assert white_level(tmp_path / "a.npz", "train_images", 0) == 255
    assert white_level(dicom(tmp_path / "8.dcm", GREYSCALE, 8)) == 255
    assert white_level(dicom(tmp_path / "12.dcm", GREYSCALE.astype(np.uint16), 12)) == 4095
    assert white_level(dicom(tmp_path / "16.dcm", GREYSCALE.astype(np.uint16), 16)) == 4095
    folder = dicom(tmp_path / "series" / "1", GREYSCALE, 8).parent
    assert white_level(folder) == 255
    file = folder / "1"
    file.write_bytes(file.read_bytes()[132:])  # without preamble
    (folder / "0.txt").write_text("no image")
    assert white_level(folder) == white_level(file) == 255
    assert known_greyscale(folder)
    packed = tmp_path / "packed.nii"  # packed, whatever its name
    packed.write_bytes((tmp_path / "narrow.nii.gz").read_bytes())
    assert white_level(packed) == 255
    assert known_greyscale(packed)


def test_floating_point_and_rescaled_values_are_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREYSCALE / 11)
    Image.fromarray(GREYSCALE.astype(np.float32)).save(tmp_path / "a.tif")
    rescaled = nibabel.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4))
    rescaled.header.set_slope_inter(2.0, -1.0)
    nibabel.save(rescaled, tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)), tmp_path / "b.nii")
    for name in ("a.npy", "a.tif", "a.nii", "b.nii"):
        with pytest.raises(ImageError, match="whose range is unknown; store it as it was generated: 0 to 255 in 8-bit"):
            white_level(tmp_path / name)


@pytest.mark.parametrize(("values", "text"), [((-1, 8), "-1 to 8"), ((0, 4096), "0 to 4096")])
def test_values_beyond_the_levels_are_an_error(values: tuple[int, int], text: str) -> None:
    require_levels(np.array([0, 4095]), 4095)
    with pytest.raises(
        ImageError, match=rf"a synthetic image with values {text}; files of this kind must have values 0 to"
    ):
        require_levels(np.array(values), 4095)
