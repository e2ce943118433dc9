from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask, read_mask_for
from fedcore.data.io.readers import read_image
from tests.fedcore.data.io.forms import AFFINE, BODY, MASK, SPACE, nifti, segmentation, series


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return series(tmp_path_factory.mktemp("seg") / "s")


def error_of(image: Path, mask: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_mask_for(image, mask, SPACE)
    return str(caught.value)


@pytest.mark.parametrize("slices", [[0], [4], [0, 3], [1, 2, 4]])
def test_missing_frames_are_background(slices: list[int], source: Path, tmp_path: Path) -> None:
    mask = np.zeros(SPACE, np.uint8)
    mask[2:4, 3, slices], mask[5, 6, slices[-1]] = 1, 2
    assert np.array_equal(read_mask_for(source, segmentation(tmp_path / "seg.dcm", source, mask), SPACE), mask)


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_frames_are_placed_by_position(plane: str, source: Path, tmp_path: Path) -> None:
    other = series(tmp_path / "s", plane)
    seg = segmentation(tmp_path / "seg.dcm", other, plane=plane)
    for image in (source, other, nifti(tmp_path / "a.nii", codes="AIL")):
        assert np.array_equal(read_mask_for(image, seg, SPACE), MASK)


def test_it_may_be_alone_in_a_folder_or_next_to_its_slices(source: Path, tmp_path: Path) -> None:
    (tmp_path / "seg").mkdir()
    segmentation(tmp_path / "seg" / "1-1.dcm", source)
    assert np.array_equal(read_mask_for(source, tmp_path / "seg", SPACE), MASK)
    image = series(tmp_path / "s")
    (tmp_path / "seg" / "1-1.dcm").rename(image / "seg.dcm")
    assert np.array_equal(read_image(image)[0], BODY)
    assert np.array_equal(read_mask_for(image, image / "seg.dcm", SPACE), MASK)


def test_without_its_image_it_has_its_class_numbers(source: Path, tmp_path: Path) -> None:
    assert np.unique(read_mask(segmentation(tmp_path / "seg.dcm", source))).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("FRACTIONAL", "mask: a fractional segmentation; save it as BINARY"), ("overlapping", "mask: segments overlap")],
)
def test_fractional_or_overlapping_segments_are_an_error(kind: str, text: str, source: Path, tmp_path: Path) -> None:
    assert error_of(source, segmentation(tmp_path / "seg.dcm", source, kind=kind)).startswith(text)


def test_the_segmentation_of_another_image_is_an_error(source: Path, tmp_path: Path) -> None:
    seg = segmentation(tmp_path / "seg.dcm", source)
    assert "its frame of reference differs" in error_of(series(tmp_path / "other", FrameOfReferenceUID="1.9"), seg)

    def at(name: str, **changed: Any) -> Path:
        affine = AFFINE.copy()
        affine[:3, 3] += changed.get("moved", 0)
        affine[:3, :3] *= changed.get("larger", 1)
        nibabel.save(nibabel.Nifti1Image(BODY, affine), tmp_path / name)
        return tmp_path / name

    assert "its voxels differ from the image's" in error_of(at("half.nii", moved=[0.4, 0, 0]), seg)
    assert "its voxels differ from the image's" in error_of(at("large.nii", larger=2.0), seg)
    assert "partly outside its image" in error_of(at("beside.nii", moved=[1.5, 0, 0]), seg)
    assert "has no position in space" in error_of(nifti(tmp_path / "a.nii", named=False), seg)


def test_contours_are_an_error_with_advice(source: Path, tmp_path: Path) -> None:
    file = pydicom.dcmread(source / "0.dcm")
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    file.save_as(tmp_path / "rt.dcm")
    assert error_of(source, tmp_path / "rt.dcm").startswith(
        "mask: contours (RTSTRUCT) without pixels; convert them to NIfTI"
    )
