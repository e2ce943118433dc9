from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from fedcore.cli.main import main
from fedcore.data.source import Data
from fedcore.data.synthetic.synthetic_set import audit_status
from fedcore.errors import InputError
from fedgen.copies.copies import UNDETECTED
from fedgen.releases import release as module
from fedgen.releases.release import _by_class, release
from fedgen.sampling import sample
from fedgen.synthetic.image_files import encoded
from fedgen.synthetic.synthetic_set import SyntheticImage, SyntheticSet
from tests.fedgen.auditing.test_run import plant
from tests.runs import seal


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_release_is_complete_and_its_checksums_are_right(audited: Path, tmp_path: Path) -> None:
    manifest = release(audited, tmp_path / "out")
    assert rows(manifest) == rows(audited / "manifest.csv")
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {*sums, "SHA256SUMS"}
    assert all(hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == s for name, s in sums.items())
    assert len([name for name in files if name.startswith("sheets/")]) == 4
    assert not list(tmp_path.glob(".out*"))


def test_contact_sheets_of_classes_have_different_names() -> None:
    labels = ["a/b", "a_b", "all", None, "x" * 300, "x" * 301]
    images = tuple(SyntheticImage(at, Path("a"), label, None, None) for at, label in enumerate(labels))
    found = _by_class(SyntheticSet(Path(), {}, images))
    assert sorted(image.number for shown in found.values() for image in shown) == list(range(6))
    assert all("/" not in name and len(name) < 60 for name in found)


@pytest.mark.parametrize("kind", ["same", "dicom"])
def test_training_accepts_a_release_whose_files_are_those_of_the_audit(
    audited: Path, tmp_path: Path, kind: Literal["same", "dicom"]
) -> None:
    manifest = release(audited, tmp_path / "out", kind=kind)
    assert audit_status(manifest, ["synthetic"]).problem == ""
    moved = Path(shutil.move(tmp_path / "out", tmp_path / "elsewhere")) / manifest.name
    assert audit_status(moved, ["synthetic"]).problem == ""
    image = sorted((moved.parent / "images").iterdir())[3]
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    assert "its files have changed since" in audit_status(moved, ["synthetic"]).problem


def test_a_release_can_be_read_as_a_site(audited: Path, tmp_path: Path) -> None:
    cohort = Data(manifest=str(release(audited, tmp_path / "out")), size=16, cache=tmp_path / "cache").load()
    assert list(cohort.sites) == ["synthetic"]
    assert len(cohort.split("train")["synthetic"]) == 64
    assert len(cohort.classes) == 4


@pytest.mark.parametrize(
    ("heading", "criterion"),
    [("Realism", "congruence"), ("Diversity", "coverage"), ("Fixed properties", "constraint"),
     ("Contents", "completeness"), ("Privacy", "compliance"), ("How made", "comprehension"),
     ("Per site", "consistency")],
)  # fmt: skip
def test_the_datasheet_has_the_seven_criteria_and_no_path(
    audited: Path, tmp_path: Path, heading: str, criterion: str
) -> None:
    release(audited, tmp_path / "out")
    sheet = (tmp_path / "out" / "README.md").read_text()
    assert f"\n## {heading}\n" in sheet
    assert f"{criterion} ({heading})" in " ".join(sheet.split())
    assert "- Privacy check: passed (0 copies in 64 images" in sheet
    assert "- Fit for use: **not measured**, no features were compared" in sheet
    assert all(text in sheet for text in UNDETECTED)
    for file in ("README.md", "audit.json", "manifest.csv"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()


def test_dicom_files_are_marked_as_synthetic_and_name_no_patient(audited: Path, tmp_path: Path) -> None:
    manifest = release(audited, tmp_path / "out", kind="dicom")
    files = sorted((tmp_path / "out" / "images").iterdir())
    assert {f"images/{p.name}" for p in files} == {row["image"] for row in rows(manifest)}
    made = [pydicom.dcmread(path) for path in files]
    assert all(one[0x0008, 0x001C].value == "YES" for one in made)
    assert all(not one.PatientName and not one.PatientID and not one.PatientBirthDate for one in made)
    assert len({one.SOPInstanceUID for one in made}) == 64
    assert len({one.SeriesInstanceUID for one in made}) == 1
    for one, path in zip(made[:4], sorted((audited / "images").iterdir()), strict=False):
        picture = np.asarray(Image.open(path)) / 255
        assert np.abs(one.pixel_array / 4095 - picture).max() < 0.5 / 4095 + 1e-6
    cohort = Data(manifest=str(manifest), size=16, cache=tmp_path / "cache").load()
    assert len(cohort.split("train")["synthetic"]) == 64


def test_two_sets_of_one_generator_and_seed_share_no_uid(one_run: Path, tmp_path: Path) -> None:
    """With other steps, images of one number differ; a PACS drops or overwrites images of the same UID."""
    uids = []
    for steps in (1, 2):
        sample(one_run, tmp_path / f"set_{steps}", 4, steps=steps)
        release(tmp_path / f"set_{steps}", tmp_path / f"out_{steps}", kind="dicom", force=True, run=one_run)
        made = [pydicom.dcmread(path) for path in sorted((tmp_path / f"out_{steps}" / "images").iterdir())]
        uids.append({(one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID) for one in made})
    assert not {uid for of in uids[0] for uid in of} & {uid for of in uids[1] for uid in of}


def test_colour_as_dicom_is_an_error_before_anything_is_written(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    for file in (drawn / "images").iterdir():
        file.write_bytes(encoded(torch.rand(3, 16, 16))[0])
    with pytest.raises(InputError, match="DICOM needs images of 1 channel, and these are in colour"):
        release(drawn, tmp_path / "out", kind="dicom", force=True, run=one_run)
    assert not list(tmp_path.glob("*out*"))


def test_a_full_disk_leaves_no_half_release(audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, count = module.write_atomically, []

    def full(path: Path, data: bytes, durable: bool = False) -> None:
        count.append(path)
        if len(count) == 20:
            raise InputError("the disk is full")
        write(path, data, durable)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(InputError, match="the disk is full"):
        release(audited, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    monkeypatch.undo()
    release(audited, tmp_path / "out")
    with pytest.raises(InputError, match="exists already; name another folder"):
        release(audited, tmp_path / "out")


def test_links_and_folders_next_to_the_release_are_unchanged(audited: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "thesis.tex").write_text("precious")
    (tmp_path / ".out.part").symlink_to(tmp_path / "outside")
    release(audited, tmp_path / "out")
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["thesis.tex"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="link exists already; name another folder"):
        release(audited, tmp_path / "link")


@pytest.mark.parametrize("lost", ["sites", "size", "channels"])
def test_a_run_without_an_entry_that_the_datasheet_needs_is_an_error(
    audited: Path, one_run: Path, tmp_path: Path, lost: str
) -> None:
    """Checksums show accidental changes; intended changes may come with new checksums."""
    run = Path(shutil.copytree(one_run, tmp_path / "run"))
    about = json.loads((run / "run.json").read_text())
    del about[lost]
    (run / "run.json").write_text(json.dumps(about))
    record = json.loads((audited / "audit.json").read_text())
    record["options"]["run"] = str(run)
    (audited / "audit.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json is corrupted"):
        release(audited, tmp_path / "out")
    seal(run)
    with pytest.raises(InputError, match=rf"no datasheet can be made of .*KeyError: '{lost}'"):
        release(audited, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_the_commands_audit_and_release(
    one_run: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(drawn, tmp_path / "copied"))
    plant(copied, 5, "hospital_1", 7)
    calls: list[tuple[list[Any], int]] = [
        (["audit", one_run, drawn], 0),
        (["audit", one_run], 2),
        (["audit", one_run, drawn, "--polcy.max_level", "WEIGHTS"], 2),
        (["release", drawn, tmp_path / "out"], 0),
        (["release", drawn, tmp_path / "out"], 2),
        (["audit", "--help"], 0),
        (["audit", one_run, copied], 2),
    ]
    for words, code in calls:
        with pytest.raises(SystemExit) as ended:
            main(["generate", *map(str, words)])
        assert ended.value.code == code, words
    printed = capsys.readouterr()
    assert "Privacy check passed: 0 copies in 64 images" in printed.out
    assert "Fit for use: not measured" in printed.out
    assert "membership inference at 1 % false positives (40 images held out, 100 are needed)" in printed.out
    assert "Privacy check failed: 1 copy in 64 images" in printed.out
    assert "generate audit takes a run and a set" in printed.err
