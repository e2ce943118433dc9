from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from fedcore.data.io.affine import affine_of, grid_of
from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of

TILT = np.cos(0.3), np.sin(0.3)
ALONG_ROW, ALONG_COLUMN = np.array([0.0, TILT[0], TILT[1]]), np.array([1.0, 0.0, 0.0])
NORMAL = np.cross(ALONG_ROW, ALONG_COLUMN)
CORNER, SPACE = np.array([-20.0, 7.0, 31.0]), (3, 5, 4)


def series(folder: Path, **changed: Any) -> Path:
    """An oblique series of (3, 5, 4) voxels, 2.5 mm between slices, 0.5 between rows, 0.75 between columns."""
    folder.mkdir()
    for place in range(SPACE[0]):
        file = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        file.Rows, file.Columns, file.SliceThickness = SPACE[1], SPACE[2], "5"
        file.PixelSpacing = [0.5, 0.75]
        file.ImageOrientationPatient = [*ALONG_ROW.tolist(), *ALONG_COLUMN.tolist()]
        file.ImagePositionPatient = (CORNER + 2.5 * place * NORMAL).tolist()
        file.PixelData = np.arange(20, dtype=np.int16).tobytes()
        for name, value in changed.items():
            setattr(file, name, value[place] if isinstance(value, list) else value)
        file.save_as(folder / f"{place}.dcm")
    return folder


def test_the_affine_of_a_series_is_that_of_the_standard(tmp_path: Path) -> None:
    """Equation C.7.6.2.1-1 of DICOM PS3.3, voxel by voxel; it counts from left and front, RAS from right and back."""
    grid = grid_of(series(tmp_path / "s"))
    assert grid is not None
    assert grid.affine is not None
    for slice_, row, column in product(*map(range, SPACE)):
        mm = CORNER + 2.5 * slice_ * NORMAL + ALONG_ROW * 0.75 * column + ALONG_COLUMN * 0.5 * row
        np.testing.assert_allclose(grid.affine @ [slice_, row, column, 1], [-mm[0], -mm[1], mm[2], 1], atol=1e-9)


def test_the_spacing_of_slices_is_that_of_their_positions(tmp_path: Path) -> None:
    assert spacing_of(series(tmp_path / "s")) == pytest.approx((0.5, 0.75, 2.5))


@pytest.mark.parametrize(
    "changed",
    [
        {"ImagePositionPatient": None},
        {"PixelSpacing": None},
    ],
)
def test_a_series_without_geometry_has_no_affine(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert affine_of(series(tmp_path / "s", InstanceNumber=[1, 2, 3], **changed)) is None


def test_the_affine_of_a_nifti_is_that_after_reorientation(tmp_path: Path) -> None:
    """Each value is a place: the sum of its mm from right, back and below, which the affine must give."""
    stored = np.array([[0, -0.5, 0, 4.0], [0, 0, 2.0, -3.0], [3.0, 0, 0, 8.0], [0, 0, 0, 1]])
    places = np.moveaxis(np.indices((4, 6, 8)), 0, -1)
    mm = (places @ stored[:3, :3].T + stored[:3, 3]).sum(-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(mm, stored), tmp_path / "a.nii.gz")
    affine, image = affine_of(tmp_path / "a.nii.gz"), read_image(tmp_path / "a.nii.gz")[0]
    assert affine is not None
    for place in product(*map(range, image.shape)):
        assert image[place] == pytest.approx((affine @ [*place, 1])[:3].sum())


@pytest.mark.parametrize(("moved", "is_error"), [(0.001, False), (0.5, True)])
def test_a_mask_at_another_position_is_an_error(tmp_path: Path, moved: float, is_error: bool) -> None:
    there = np.eye(4)
    there[0, 3] = moved
    for name, affine in (("image", np.eye(4)), ("mask", there)):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 6, 8), np.uint8), affine), tmp_path / f"{name}.nii.gz")
    if is_error:
        with pytest.raises(ImageError, match="its position differs from the image's"):
            read_mask_for(tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", (4, 6, 8))
    else:
        assert not read_mask_for(tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", (4, 6, 8)).any()
