from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcore.data.tools.preview import preview
from fedcore.errors import InputError
from tests.fedcore.data.tools.test_check import manifest

__all__ = ["manifest"]


def test_preview_shows_every_site(manifest: Path, tmp_path: Path) -> None:
    (manifest.parent / "1.png").write_bytes(b"damaged")  # shown in its place
    picture = np.asarray(Image.open(preview(manifest, tmp_path / "p.png", per_site=3, size=32)).convert("L"))
    half = len(picture) // 2
    for part in (picture[:half], picture[half:]):
        assert (part < 64).sum() > 5000  # dark pixels of an image on the white sheet
    with pytest.raises(InputError, match="per_site"):
        preview(manifest, tmp_path / "p.png", per_site=0)


def test_an_incomplete_preview_is_not_written(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        preview(manifest, tmp_path / "file" / "p.png", per_site=1, size=32)
    with pytest.raises(InputError, match=r"out must be the name of a picture, such as preview\.png, got p\.doc"):
        preview(manifest, tmp_path / "p.doc", per_site=1, size=32)


def test_preview_shows_a_nifti_of_one_slice(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(16, 24, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(pixels, np.diag([1.0, 2.0, 5.0, 1.0])), tmp_path / "a.nii.gz")
    (tmp_path / "manifest.csv").write_text("image,site\na.nii.gz,north\n")
    assert preview(tmp_path / "manifest.csv", tmp_path / "p.png", per_site=1, size=32).is_file()
