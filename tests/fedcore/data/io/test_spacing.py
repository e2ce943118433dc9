from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from fedcore.data.io.error import ImageError
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess.decode import Decoding, decode
from fedcore.data.preprocess.scaling import Percentiles


def volume(path: Path, affine: np.ndarray | None, shape: tuple[int, ...] = (4, 6, 8)) -> Path:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def test_spacing_is_in_the_order_of_the_axes_that_are_read(tmp_path: Path) -> None:
    """Stored as (superior, right to left, anterior), with 3, 0.5 and 2 mm."""
    affine = np.array([[0, -0.5, 0, 0], [0, 0, 2.0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    path = volume(tmp_path / "a.nii.gz", affine)
    assert read_image(path).shape == (1, 6, 8, 4)
    assert spacing_of(path) == (0.5, 2.0, 3.0)


def test_without_a_header_the_spacing_is_unknown(tmp_path: Path) -> None:
    sheared = np.diag([1.0, 1, 1, 1])
    sheared[0, 1] = 0.5
    unset = nibabel.load(volume(tmp_path / "u.nii", np.eye(4)))
    unset.header["sform_code"] = unset.header["qform_code"] = 0
    (tmp_path / "unset.nii").write_bytes(nibabel.Nifti1Image(np.asarray(unset.dataobj), None).to_bytes())
    with pytest.raises(ImageError, match=r"axes are 26\.6 degrees off a right angle"):
        read_image(volume(tmp_path / "sheared.nii", sheared))
    assert spacing_of(tmp_path / "unset.nii") is None
    assert spacing_of(tmp_path / "a.png") is None


@pytest.mark.parametrize("name", ["a.dcm", "1.2.840.113619"])
def test_dicom_has_the_spacing_of_rows_and_columns(tmp_path: Path, name: str) -> None:
    file = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    file.PixelSpacing = [0.5, 0.75]
    file.save_as(tmp_path / name)
    assert spacing_of(tmp_path / name) == (0.5, 0.75)
    (tmp_path / "series").mkdir()
    file.SpacingBetweenSlices = "3"
    file.save_as(tmp_path / "series" / "1.dcm")
    assert spacing_of(tmp_path / "series") == (0.5, 0.75)  # one slice has two axes
    for value in ("", None):
        file.PixelSpacing = value
        file.save_as(tmp_path / name)
        assert spacing_of(tmp_path / name) is None
    del file.PixelSpacing
    file.save_as(tmp_path / name)
    assert spacing_of(tmp_path / name) is None


def test_decoded_images_have_the_spacing_of_their_new_size(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz", np.diag([1.0, 2.0, 4.0, 1]), (8, 16, 4))
    row = Row(number=2, image=path, site="a", split="train", label=None, mask=None, patient="p")
    whole = decode(row, Decoding(Percentiles(), (8, 8, 8), 1))
    assert whole.spacing == (4.0, 4.0, 4.0)
    slices = decode(row, Decoding(Percentiles(), (8, 8), 1, slices=1))
    assert slices.spacing == (2.0, 2.0)


def test_a_picture_stored_as_a_volume_of_one_slice_has_the_spacing_of_its_axes(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz", np.diag([2.0, 1.0, 5.0, 1]), (8, 16, 1))
    row = Row(number=2, image=path, site="a", split="train", label=None, mask=None, patient="p")
    assert decode(row, Decoding(Percentiles(), (8, 8), 1)).spacing == (2.0, 2.0)
