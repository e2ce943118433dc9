from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedcore.data.io.affine import affine_of
from fedcore.data.io.readers import read_image
from fedgen.synthetic.dicom_files import as_dicom
from fedgen.synthetic.image_files import decoded, encoded


def test_a_volume_is_the_same_as_dicom_and_as_nifti(tmp_path: Path) -> None:
    """So NIfTI masks fit both."""
    image = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tmp_path / "a.nii.gz").write_bytes(encoded(image)[0])
    (tmp_path / "a.dcm").write_bytes(as_dicom(decoded(tmp_path / "a.nii.gz"), 1, ["set"]))
    assert np.array_equal(read_image(tmp_path / "a.dcm"), read_image(tmp_path / "a.nii.gz"))
    assert np.array_equal(affine_of(tmp_path / "a.dcm"), np.eye(4))


def test_a_picture_stays_upright(tmp_path: Path) -> None:
    image = torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tmp_path / "a.dcm").write_bytes(as_dicom(image, 1, ["set"]))
    expected = ((image + 1) / 2 * 4095).round().numpy()
    assert np.array_equal(read_image(tmp_path / "a.dcm"), expected)
