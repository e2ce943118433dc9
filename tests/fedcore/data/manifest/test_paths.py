from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from fedcore.data.manifest.paths import file_error, resolve_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub" / "St Anna").mkdir(parents=True)
    for name in ("sub/i0.png", "sub/St Anna/scan.nii.gz", "sub/a b.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("sub\\i0.png", "backslashes: did you mean sub/i0.png, which exists?"),
        ("sub/i0.PNG", "did you mean sub/i0.png, which exists?"),
        ("SUB/st anna/Scan.NII.gz", "did you mean sub/St Anna/scan.nii.gz, which exists?"),
        ("sub/i0", "did you mean sub/i0.png, which exists?"),
        ("sub/St Anna/scan.nii", "did you mean sub/St Anna/scan.nii.gz, which exists?"),
        ("/home/alice/sub/i0.png", "did you mean sub/i0.png, which exists?"),
        ("C:\\data\\sub\\i0.png", "did you mean sub/i0.png, which exists?"),
        ("../other/sub/i0.png", "did you mean sub/i0.png, which exists?"),
        ("sub/a%20b.png", "did you mean sub/a b.png, which exists?"),
        ("'sub/i0.png'", "did you mean sub/i0.png, which exists?"),
        ("sub/other.png", "other.png is missing"),
        ("x\ud800", "is missing"),
    ],
)
def test_a_missing_file_has_a_suggestion(folder: Path, cell: str, text: str) -> None:
    error = file_error(resolve_path(folder, cell), folder, cell)
    assert text in error
    assert "is missing" in error


def test_urls_and_home_folders_have_a_suggestion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    url = f"file://{folder}/sub/a%20b.png"
    assert f"did you mean {folder}/sub/a b.png, which exists?" in file_error(resolve_path(folder, url), folder, url)
    home = "~/sub/i0.png"
    assert f"did you mean {folder}/sub/i0.png" in file_error(resolve_path(folder / "sub", home), folder / "sub", home)


def test_a_name_is_found_in_either_unicode_form(folder: Path) -> None:
    composed, taken_apart = (unicodedata.normalize(form, "sub/é.png") for form in ("NFC", "NFD"))
    (folder / taken_apart).write_bytes(b"x")
    assert file_error(resolve_path(folder, composed), folder, composed) == ""
    (folder / taken_apart).unlink()
    (folder / composed).write_bytes(b"x")
    assert resolve_path(folder, taken_apart) == folder / composed


def test_a_new_file_is_found(folder: Path) -> None:
    assert "did you mean" not in file_error(folder / "new.PNG", folder, "new.PNG")
    (folder / "new.png").write_bytes(b"x")
    assert "did you mean new.png" in file_error(folder / "new.PNG", folder, "new.PNG")
