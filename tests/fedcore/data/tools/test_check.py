from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcore.data.tools.check import check, check_command, preview
from fedcore.data.tools.command import command
from fedcore.errors import InputError


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["image,site,split,label,mask"]
    for at in range(6):
        Image.fromarray(rng.integers(0, 255, (20, 16 + at), dtype=np.uint8)).save(tmp_path / f"{at}.png")
        lines.append(f"{at}.png,north,{'test' if at > 3 else 'train'},{'ab'[at % 2]},")
    nib.save(nib.Nifti1Image(rng.random((9, 8, 7)) * 1e6, np.eye(4)), tmp_path / "v.nii")
    nib.save(nib.Nifti1Image(np.ones((9, 8, 7), np.uint8), np.eye(4)), tmp_path / "m.nii")
    Image.new("L", (8, 8)).save(tmp_path / "flat.png")
    (tmp_path / "manifest.csv").write_text("\n".join([*lines, "v.nii,south,train,a,m.nii", "flat.png,north,train,a,"]))
    return tmp_path / "manifest.csv"


def test_a_sound_manifest(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_command(manifest) == 0
    out = capsys.readouterr().out
    for text in (
        "row 9, flat.png: constant image",
        "site 'south' has one image for training",
        "site 'south' has no image of b",
        "2D and 3D images in one manifest",
        "intensities of 'south' spread",
        "No faults.",
        "masks 1",
    ):
        assert text in out


def test_findings_are_counted_and_not_sets_of_them(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write_text(manifest.read_text().replace(",a,", ",a|b,"))
    assert check_command(manifest) == 0
    out = capsys.readouterr().out
    assert "a 4" in out
    assert "b 7" in out
    assert "a|b" not in out
    assert "has no image of" not in out


def test_faults_are_counted(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest.parent / "1.png").write_bytes(b"damaged")
    nib.save(nib.Nifti1Image(np.ones((9, 8, 6), np.uint8), np.eye(4)), manifest.parent / "m.nii")
    assert check(manifest) == 2
    out = capsys.readouterr().out
    assert "row 3, 1.png: truncated or unreadable: no PNG" in out
    assert "row 8, v.nii: mask has shape 9 x 8 x 6, its image 9 x 8 x 7" in out
    assert check_command(manifest) == 2
    assert check_command(manifest, quick=True) == 0  # the images are not opened


def test_a_faulty_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.csv").write_text("image,site\nnone.png,a\nno.png,\n")
    assert check(tmp_path / "manifest.csv") == 3
    assert "row 3: site is empty" in capsys.readouterr().out


def test_every_fault_is_told_at_once(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest.parent / "1.png").write_bytes(b"damaged")
    manifest.write_text(manifest.read_text() + "\ngone.png,north,train,a,\n2.png,,train,a,\n")
    assert check(manifest) == 3
    out = capsys.readouterr().out
    assert "InputErrors (3)\n  row 11: site is empty\n  row 10: gone.png is missing\n  row 3, 1.png: truncated" in out


def test_a_pipe_has_no_edge(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "long " * 40
    manifest.write_text(manifest.read_text().replace(",south,", f",{name.strip()},"))
    assert check(manifest) == 0
    assert f" {name}" in capsys.readouterr().out


def test_columns_under_other_names(manifest: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text().replace("image,site,", "path,hospital,", 1))
    assert command(["check", str(manifest)]) == 2
    assert "set data.columns.image path (of data check: --columns.image path)" in capsys.readouterr().out
    names = ["--columns.image", "path", "--columns.site", "hospital"]
    assert command(["check", str(manifest), *names]) == 0
    assert command(["preview", str(manifest), "--out", str(tmp_path / "p.png"), "--per_site", "1", *names]) == 0


def test_preview_shows_every_site(manifest: Path, tmp_path: Path) -> None:
    (manifest.parent / "1.png").write_bytes(b"damaged")  # told in its place, no reason to stop
    picture = np.asarray(Image.open(preview(manifest, tmp_path / "p.png", per_site=3, size=32)).convert("L"))
    half = len(picture) // 2
    for part in (picture[:half], picture[half:]):
        assert (part < 64).sum() > 5000  # dark pixels of an image on the white sheet
    with pytest.raises(InputError, match="per_site"):
        preview(manifest, tmp_path / "p.png", per_site=0)


def test_a_preview_is_whole_or_not_there(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        preview(manifest, tmp_path / "file" / "p.png", per_site=1, size=32)
    with pytest.raises(InputError, match=r"out must name a picture, such as preview\.png, got p\.doc"):
        preview(manifest, tmp_path / "p.doc", per_site=1, size=32)


def test_preview_shows_a_nifti_of_one_slice(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(16, 24, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(pixels, np.diag([1.0, 2.0, 5.0, 1.0])), tmp_path / "a.nii.gz")
    (tmp_path / "manifest.csv").write_text("image,site\na.nii.gz,north\n")
    assert preview(tmp_path / "manifest.csv", tmp_path / "p.png", per_site=1, size=32).is_file()
