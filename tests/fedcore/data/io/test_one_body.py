"""One volume in every file format is read as one array, and its masks fit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from fedcore.data.io.affine import affine_of
from fedcore.data.io.grid import as_displayed
from fedcore.data.io.header import read_header
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of
from fedcore.data.preprocess.decode import Decoding, resize_or_slice
from fedcore.data.preprocess.scaling import Window
from fedtune.evaluation.native_grid import native_mask
from fedtune.prediction.mask_files import write_mask
from tests.fedcore.data.io.forms import (
    AFFINE,
    BODY,
    MASK,
    MM,
    PLANES,
    SPACE,
    blank,
    corners,
    enhanced,
    frames,
    nifti,
    save,
    segmentation,
    series,
    stored,
    turned,
)  # fmt: skip

FORMS: dict[str, Callable[[Path], Path]] = {
    "ras": lambda folder: nifti(folder / "ras.nii.gz"),
    "las": lambda folder: nifti(folder / "las.nii.gz", codes="LAS"),
    "pir": lambda folder: nifti(folder / "pir.nii", codes="PIR"),
    "axial": lambda folder: series(folder / "a"),
    "sagittal": lambda folder: series(folder / "s", "sagittal"),
    "coronal": lambda folder: series(folder / "c", "coronal"),
    "enhanced": lambda folder: enhanced(folder / "e.dcm", *frames([3, 0, 4, 1, 2])),
    "enhanced sagittal": lambda folder: enhanced(folder / "f.dcm", *frames([3, 0, 5, 4, 1, 2], "sagittal")),
}
OF_DICOM = {"axial": "axial", "sagittal": "sagittal", "coronal": "coronal", "enhanced": "axial",
            "enhanced sagittal": "sagittal"}  # fmt: skip
CODES = {"ras": "RAS", "las": "LAS", "pir": "PIR"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def masks(written: Path) -> dict[str, Path]:
    """Masks with an affine, which fit every format."""
    source = series(written / "source")
    return {
        "ras": nifti(written / "mask_ras.nii.gz", MASK),
        "lip": nifti(written / "mask_lip.nii.gz", MASK, codes="LIP"),
        "seg": segmentation(written / "seg.dcm", source),
        "labelmap": segmentation(written / "labelmap.dcm", source, kind="LABELMAP"),
    }


def in_file_order(mask: np.ndarray, form: str) -> np.ndarray:
    if form in OF_DICOM:
        return stored(mask, OF_DICOM[form])
    return nibabel.Nifti1Image(mask, AFFINE).as_reoriented(nibabel.orientations.axcodes2ornt(CODES[form])).dataobj


@pytest.mark.parametrize("form", FORMS)
def test_all_formats_are_one_array_with_fitting_masks(form: str, written: Path, masks: dict[str, Path]) -> None:
    path = FORMS[form](written)
    assert np.array_equal(read_image(path)[0], BODY)
    assert spacing_of(path) == pytest.approx(MM)
    affine = affine_of(path)
    assert affine is not None
    assert np.allclose(affine, AFFINE)
    for mask in masks.values():
        assert np.array_equal(read_mask_for(path, mask, SPACE), MASK)
    silent = np.ascontiguousarray(in_file_order(MASK, form))
    np.save(written / "silent.npy", silent)
    nibabel.save(nibabel.Nifti1Image(silent, None), written / "silent.nii.gz")
    for name in ("silent.npy", "silent.nii.gz"):
        assert np.array_equal(read_mask_for(path, written / name, SPACE), MASK)


@pytest.mark.parametrize("form", FORMS)
def test_a_predicted_mask_has_the_position_of_its_image(form: str, tmp_path: Path) -> None:
    """The centre of a structure, in mm, by nibabel alone."""
    path = FORMS[form](tmp_path)
    made = write_mask(tmp_path / "masks", path, MASK)
    assert np.array_equal(read_mask_for(path, made, SPACE), MASK)
    file = nibabel.load(made)
    for number in (1, 2):
        there = np.argwhere(np.asarray(file.dataobj) == number).mean(axis=0)
        truth = np.argwhere(number == MASK).mean(axis=0)
        assert np.allclose((file.affine @ [*there, 1])[:3], (AFFINE @ [*truth, 1])[:3], atol=1e-4)


@pytest.mark.parametrize(("codes", "tilt"), [("RAS", 0.4), ("LPS", -0.3), ("SRA", 0.7)])
def test_an_oblique_volume_keeps_its_voxels(codes: str, tilt: float, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", codes=codes, tilt=tilt)
    assert np.array_equal(read_image(path)[0], BODY)
    assert np.allclose(affine_of(path), turned(tilt) @ AFFINE, atol=1e-5)
    mask = nifti(tmp_path / "m.nii", MASK, codes="IPL", tilt=tilt)
    assert np.array_equal(read_mask_for(path, mask, SPACE), MASK)


@pytest.mark.parametrize("mask", ["m.npy", "silent.nii", "ras.nii"])
def test_a_volume_without_affine_stays_as_stored(mask: str, tmp_path: Path) -> None:
    """Of a mask with an affine only the order of voxels is used."""
    path = nifti(tmp_path / "a.nii", named=False)
    np.save(tmp_path / "m.npy", MASK)
    nifti(tmp_path / "silent.nii", MASK, named=False)
    nibabel.save(nibabel.Nifti1Image(MASK, np.diag([-1.0, 1, 1, 1])), tmp_path / "ras.nii")
    assert np.array_equal(read_image(path)[0], BODY)
    assert affine_of(path) is None
    assert read_header(path).orientation is None
    assert np.array_equal(read_mask_for(path, tmp_path / mask, SPACE), MASK)


@pytest.mark.parametrize(("plane", "axis"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_one_slice_is_what_a_viewer_shows(plane: str, axis: int, tmp_path: Path) -> None:
    """A DICOM slice, a NIfTI of one slice in two orders, and a slice cut from the volume."""
    at = 2
    places, along, mm = corners(plane)
    shown = as_displayed(BODY.take(at, axis))
    place = at if PLANES[plane][0][1] > 0 else SPACE[axis] - 1 - at
    file = blank("1.2.840.10008.5.1.4.1.1.2", *shown.shape, PixelSpacing=mm[1:].tolist(), RescaleSlope=1,
                 ImagePositionPatient=places[place].tolist(), ImageOrientationPatient=along,
                 RescaleIntercept=-1024)  # fmt: skip
    save(file, shown + 1024, tmp_path / "a.dcm")
    alone, there = BODY.take([at], axis), AFFINE.copy()
    there[:3, 3] += at * MM[axis] * np.eye(3)[axis]
    for name, codes in (("ras", "RAS"), ("other", "PIL")):
        image = nibabel.Nifti1Image(alone, there).as_reoriented(nibabel.orientations.axcodes2ornt(codes))
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine), tmp_path / f"{name}.nii")
    mask = (shown > 0).astype(np.uint8)
    for name in ("a.dcm", "ras.nii", "other.nii"):
        assert np.array_equal(read_image(tmp_path / name)[0], shown)
        assert spacing_of(tmp_path / name) == pytest.approx(mm[1:])
        written = write_mask(tmp_path / "masks", tmp_path / name, mask)
        assert np.array_equal(read_mask_for(tmp_path / name, written, shown.shape), mask)
        assert np.array_equal(read_mask_for(tmp_path / "a.dcm", written, shown.shape), mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("form", ["pir", "axial", "sagittal", "enhanced"])
def test_slices_are_pictures_and_their_masks_are_put_back(
    form: str, axis: int, masks: dict[str, Path], tmp_path: Path
) -> None:
    path = FORMS[form](tmp_path)
    size = as_displayed(BODY.take(0, axis)).shape
    how = Decoding(Window(-1000.0, 3000.0), size, channels=1, slices=axis)
    layout = how.layout(path)
    assert layout.spacing == pytest.approx(tuple(np.delete(MM, axis)[::-1]))
    layout = replace(layout, spacing=None)  # so that nothing has to be resized
    slices = resize_or_slice(how.scaling(read_image(path)), read_mask_for(path, masks["lip"], SPACE), how, layout)
    for k in range(SPACE[axis]):
        assert np.allclose(slices.pixels[k, 0] * 2000 + 1000, as_displayed(BODY.take(k, axis)), atol=1)
    assert slices.masks is not None
    logits = one_hot(torch.from_numpy(slices.masks).long(), 3).movedim(-1, 1).float()
    assert np.array_equal(native_mask(enumerate(logits), how, SPACE, layout), MASK)


def test_the_front_is_on_top_and_the_patients_right_at_the_left() -> None:
    plane = np.zeros((4, 5))
    plane[3, 4] = 1  # most to the right, most to the front
    assert as_displayed(plane).shape == (5, 4)
    assert as_displayed(plane)[0, 0] == 1
    assert np.array_equal(as_displayed(as_displayed(plane)), plane)
