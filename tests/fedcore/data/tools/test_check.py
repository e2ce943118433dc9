from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcore.data.tools.check import check, check_command
from fedcore.data.tools.command import command


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


def test_a_good_manifest_has_warnings_and_no_error(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_command(manifest) == 0
    out = capsys.readouterr().out
    for text in (
        "row 9, flat.png: constant image",
        "site 'south' has 1 training image",
        "site 'south' has no image of b",
        "2D and 3D images in one manifest",
        "the intensity range of 'south' is",
        "No errors.",
        "masks 1",
    ):
        assert text in out


def test_single_findings_are_counted(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write_text(manifest.read_text().replace(",a,", ",a|b,"))
    assert check_command(manifest) == 0
    out = capsys.readouterr().out
    assert "a 4" in out
    assert "b 7" in out
    assert "a|b" not in out
    assert "has no image of" not in out


def test_errors_are_counted(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest.parent / "1.png").write_bytes(b"damaged")
    nib.save(nib.Nifti1Image(np.ones((9, 8, 6), np.uint8), np.eye(4)), manifest.parent / "m.nii")
    assert check(manifest) == 2
    out = capsys.readouterr().out
    assert "row 3, 1.png: truncated or unreadable: its first bytes" in out
    assert "row 8, v.nii: mask has shape 9 x 8 x 6, its image 9 x 8 x 7" in out
    assert check_command(manifest) == 2
    assert check_command(manifest, quick=True) == 0  # the images are not opened


def test_errors_of_the_csv_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.csv").write_text("image,site\nnone.png,a\nno.png,\n")
    assert check(tmp_path / "manifest.csv") == 3
    assert "row 3: site is empty" in capsys.readouterr().out


def test_all_errors_are_printed_together(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest.parent / "1.png").write_bytes(b"damaged")
    manifest.write_text(manifest.read_text() + "\ngone.png,north,train,a,\n2.png,,train,a,\n")
    assert check(manifest) == 3
    out = capsys.readouterr().out
    assert "Errors (3)\n  row 11: site is empty\n  row 10: gone.png is missing\n  row 3, 1.png: truncated" in out


def test_output_to_a_pipe_is_not_cut(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "long " * 40
    manifest.write_text(manifest.read_text().replace(",south,", f",{name.strip()},"))
    assert check(manifest) == 0
    assert f" {name}" in capsys.readouterr().out


def test_columns_can_have_other_names(manifest: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text().replace("image,site,", "path,hospital,", 1))
    assert command(["check", str(manifest)]) == 2
    assert "set data.columns.image path (for data check: --columns.image path)" in capsys.readouterr().out
    names = ["--columns.image", "path", "--columns.site", "hospital"]
    assert command(["check", str(manifest), *names]) == 0
    assert command(["preview", str(manifest), "--out", str(tmp_path / "p.png"), "--per_site", "1", *names]) == 0
