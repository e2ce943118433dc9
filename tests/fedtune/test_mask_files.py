from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from fedcore.data.affine import read_mask_of
from fedtune.mask_files import write_mask
from tests.fedcore.data.test_affine import SPACE, series


def test_a_mask_of_a_series_comes_back_whichever_way_a_tool_stored_it(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    mask = np.random.default_rng(0).integers(0, 4, SPACE).astype(np.uint8)
    written = write_mask(tmp_path / "masks", folder, mask)
    assert written.name == "s.nii.gz"
    turned = nibabel.as_closest_canonical(nibabel.load(written))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    assert turned.shape != nibabel.load(written).shape
    for path in (written, tmp_path / "turned.nii.gz"):
        assert np.array_equal(read_mask_of(folder, path, SPACE), mask)


def test_a_series_without_positions_takes_masks_in_the_order_of_its_voxels(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", ImagePositionPatient=None, InstanceNumber=[1, 2, 3])
    mask = np.arange(60, dtype=np.uint8).reshape(SPACE)
    written = write_mask(tmp_path / "masks", folder, mask)
    assert written.name == "s.npy"
    assert np.array_equal(read_mask_of(folder, written, SPACE), mask)
