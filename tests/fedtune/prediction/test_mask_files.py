from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import read_image
from fedtune.prediction.mask_files import write_mask
from tests.fedcore.data.io.test_affine import SPACE, series


def test_a_mask_of_a_series_is_read_in_any_voxel_order(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    space = read_image(folder).shape[1:]
    mask = np.random.default_rng(0).integers(0, 4, space).astype(np.uint8)
    written = write_mask(tmp_path / "masks", folder, mask)
    assert written.name == "s.nii.gz"
    nifti = nibabel.load(written)
    turned = nifti.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    assert turned.shape != nifti.shape
    for path in (written, tmp_path / "turned.nii.gz"):
        assert np.array_equal(read_mask_for(folder, path, space), mask)


def test_a_series_without_positions_has_masks_in_voxel_order(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", ImagePositionPatient=None, InstanceNumber=[1, 2, 3])
    mask = np.arange(60, dtype=np.uint8).reshape(SPACE)
    written = write_mask(tmp_path / "masks", folder, mask)
    assert written.name == "s.npy"
    assert np.array_equal(read_mask_for(folder, written, SPACE), mask)


def test_a_mask_copies_only_the_geometry_of_a_nifti_header(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 5], [0, 0, 3, -7], [0, 1.5, 0, 9], [0, 0, 0, 1]])
    source = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine)
    source.header.set_xyzt_units("micron", "sec")
    source.set_sform(affine, 2)
    source.set_qform(affine, 4)
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        source.header[name] = b"DOE^JANE"
    source.header.extensions.append(Nifti1Extension("comment", b"DOE^JANE"))
    nibabel.save(source, tmp_path / "a.nii.gz")
    written = write_mask(tmp_path / "masks", tmp_path / "a.nii.gz", np.ones((4, 6, 5), np.uint8))
    assert b"DOE^JANE" in gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert b"DOE^JANE" not in gzip.decompress(written.read_bytes())
    made = nibabel.load(written)
    assert (made.shape, made.get_data_dtype()) == ((4, 5, 6), np.uint8)
    assert np.allclose(made.affine, affine)
    assert made.header.get_xyzt_units() == ("micron", "sec")
    assert (made.get_sform(coded=True)[1], made.get_qform(coded=True)[1]) == (2, 4)
    assert np.allclose(made.header.get_zooms(), source.header.get_zooms())


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (0, 0)], ids=["qform", "sform", "neither"])
def test_only_the_affines_that_the_image_has_are_set(tmp_path: Path, codes: tuple[int, int]) -> None:
    source = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 3.0, 4.0, 1.0]))
    source.set_sform(np.diag([2.0, 3.0, 4.0, 1.0]), codes[0])
    source.set_qform(np.diag([2.0, 3.0, 4.0, 1.0]), codes[1])
    nibabel.save(source, tmp_path / "a.nii.gz")
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    made = nibabel.load(write_mask(tmp_path / "masks", tmp_path / "a.nii.gz", mask))
    saved = nibabel.load(tmp_path / "a.nii.gz")
    assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == codes
    assert np.allclose(made.affine, saved.affine)
    assert np.allclose(made.header.get_zooms(), saved.header.get_zooms())
