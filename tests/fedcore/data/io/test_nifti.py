from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedcore.data.io.affine import affine_of
from fedcore.data.io.error import ImageError
from fedcore.data.io.header import read_header
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of
from fedtune.prediction.mask_files import write_mask
from tests.fedcore.data.io.forms import AFFINE, BODY, MASK, MM, SPACE, nifti

LAS = np.diag([-1.0, 1, 1, 1]) @ AFFINE


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    return str(caught.value)


def made(path: Path, array: np.ndarray = BODY, affine: np.ndarray | None = AFFINE, **fields: object) -> Path:
    """With the given fields of the header."""
    image = nibabel.Nifti1Image(array, affine)
    data = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("unit", "mm"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001), (8 + 1, 1000.0)])
def test_units_become_mm(unit: int, mm: float, tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii", xyzt_units=unit)
    assert spacing_of(path) == pytest.approx(MM * mm)
    mask = write_mask(tmp_path / "masks", path, MASK)
    assert np.array_equal(read_mask_for(path, mask, SPACE), MASK)


@pytest.mark.parametrize("fields", [
    {"sform_code": 0, "qform_code": 0},
    {"sform_code": 1, "srow_x": 0, "srow_y": 0, "srow_z": 0},
    {"sform_code": 1, "srow_x": np.nan},
    {"sform_code": 0, "qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9},
], ids=["no codes", "zero", "nan", "no rotation"])  # fmt: skip
def test_an_invalid_affine_is_ignored(fields: dict[str, object], tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii", affine=LAS, **fields)
    assert np.array_equal(read_image(path)[0], BODY)
    assert affine_of(path) is None
    assert spacing_of(path) == pytest.approx(MM)  # pixdim
    mask = write_mask(tmp_path / "masks", path, MASK)
    assert np.array_equal(nibabel.load(mask).dataobj, MASK)
    assert np.array_equal(read_mask_for(path, mask, SPACE), MASK)


def test_the_sform_is_used_and_the_qform_if_the_sform_is_invalid(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(BODY, AFFINE)
    image.set_qform(LAS, 1)
    image.set_sform(AFFINE, 1)
    nibabel.save(image, tmp_path / "both.nii")
    assert np.array_equal(read_image(tmp_path / "both.nii")[0], BODY)
    names = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "pixdim")
    zero = {"sform_code": 1, "srow_x": 0, "srow_y": 0, "srow_z": 0}
    made(tmp_path / "q.nii", **zero, **{name: image.header[name] for name in names})
    assert np.array_equal(read_image(tmp_path / "q.nii")[0], BODY[::-1])
    assert read_header(tmp_path / "q.nii").orientation == "LAS"


def test_negative_voxel_sizes_are_read_as_sizes(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(BODY, None)
    image.set_qform(LAS, 1)
    path = tmp_path / "a.nii"
    data = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    assert header["pixdim"][0] == -1  # the third axis is reversed
    header["pixdim"][1:4] *= [-1, 1, -1]
    data[:348] = header.binaryblock
    path.write_bytes(data)
    assert np.array_equal(read_image(path)[0], BODY[::-1])
    assert spacing_of(path) == pytest.approx(MM)


@pytest.mark.parametrize("slope", [0.0, np.nan, 1.0])
def test_an_invalid_slope_is_ignored(slope: float, tmp_path: Path) -> None:
    assert np.array_equal(read_image(made(tmp_path / "a.nii", scl_slope=slope, scl_inter=0))[0], BODY)


def test_the_content_decides_whether_a_file_is_compressed(tmp_path: Path) -> None:
    whole = nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(whole)
    (tmp_path / "c.nii").write_bytes(gzip.compress(whole))
    for name in ("b.nii.gz", "c.nii"):
        assert np.array_equal(read_image(tmp_path / name)[0], BODY)
        assert spacing_of(tmp_path / name) == pytest.approx(MM)


@pytest.mark.parametrize("name", ["a.hdr", "a.img"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.AnalyzeImage])
def test_pairs_are_read_by_either_name(kind: type, name: str, tmp_path: Path) -> None:
    """Analyze has a voxel size, but no orientation."""
    nibabel.save(kind(BODY, np.diag([-1.0, 1, 1, 1]) @ AFFINE), tmp_path / "a.img")
    analyze = kind is nibabel.AnalyzeImage
    assert np.array_equal(read_image(tmp_path / name)[0], BODY if analyze else BODY[::-1])
    assert (affine_of(tmp_path / name) is None) == analyze
    assert spacing_of(tmp_path / name) == pytest.approx(MM)
    (tmp_path / "a.hdr").unlink()
    if name == "a.img":
        assert error_of(tmp_path / "a.img") == "the .hdr file of the pair is missing"


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(BODY, AFFINE), tmp_path / "a.nii.gz")
    assert np.array_equal(read_image(tmp_path / "a.nii.gz")[0], BODY)
    mask = write_mask(tmp_path / "masks", tmp_path / "a.nii.gz", MASK)
    assert np.array_equal(read_mask_for(tmp_path / "a.nii.gz", mask, SPACE), MASK)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 5, 6), (1, 6, 5)), ((5, 1, 6), (1, 6, 5)), ((5, 6, 1), (1, 6, 5)), ((5, 6), (1, 6, 5)),
        ((5, 6, 7, 1, 3), (3, 5, 6, 7)), ((5, 6, 7, 2, 1), (2, 5, 6, 7)), ((5, 6, 1, 3), (3, 6, 5)),
    ],
)  # fmt: skip
def test_axes_of_length_1_are_removed(shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    assert read_image(made(tmp_path / "a.nii", np.zeros(shape, np.uint8))).shape == expected


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour voxels (RGB24); save one number per"),
        (np.zeros((3, 4, 5), np.complex64), "complex voxels (complex64); save their magnitude"),
        (np.zeros((3, 4, 5, 9), np.uint8), "NIfTI of shape (3, 4, 5, 9); a fourth axis may have at most 4 channels"),
        (np.zeros((3, 4, 5, 2, 2), np.uint8), "NIfTI of shape (3, 4, 5, 2, 2); a fourth axis may have at most 4"),
    ],
)  # fmt: skip
def test_voxels_that_are_not_an_image_are_an_error(array: np.ndarray, text: str, tmp_path: Path) -> None:
    assert error_of(made(tmp_path / "a.nii", array)).startswith(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.mgz", "mri_convert"), ("a.nrrd", "SimpleITK"), ("a.MHA", "SimpleITK"), ("a.mnc", "mnc2nii")],
)
def test_other_formats_are_an_error_with_advice(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"?")
    assert text in error_of(tmp_path / name)
