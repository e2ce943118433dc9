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
from fedcore.errors import InputError, InputErrors
from fedgen.auditing.run import audit
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


@pytest.fixture(scope="module")
def audited_once(one_run: Path, one_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "set"
    shutil.copytree(one_set, folder)
    audit(one_run, folder)
    return folder


@pytest.fixture
def audited(audited_once: Path, tmp_path: Path) -> Path:
    """An audited set of 64 images that a test may change."""
    return Path(shutil.copytree(audited_once, tmp_path / "set"))


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


def test_an_audit_that_a_site_does_not_list_is_an_error(audited: Path, tmp_path: Path) -> None:
    """The record fits the set and its figures are good, but a site made no audit."""
    record = json.loads((audited / "audit.json").read_text())
    run = Path(shutil.copytree(record["options"]["run"], tmp_path / "run"))
    (run / "sites" / "hospital_2" / "audit.jsonl").write_text("")
    record["options"]["run"] = str(run)
    (audited / "audit.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"the audit log of hospital_2 does not list this set"):
        release(audited, tmp_path / "out")


def test_a_record_with_a_changed_verdict_is_an_error(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    audit(one_run, drawn)
    record = json.loads((drawn / "audit.json").read_text())
    record["safe"] = {"answer": "yes", "reasons": [], "not_measured": record["safe"]["not_measured"]}
    (drawn / "audit.json").write_text(json.dumps(record))
    for force in (False, True):
        with pytest.raises(InputError, match=r"no valid audit record \(.*contradicts itself: its verdicts"):
            release(drawn, tmp_path / "out", force=force)


@pytest.mark.parametrize("change", ["generator", "data", "seed"])
def test_settings_changed_after_the_audit_are_an_error(audited: Path, tmp_path: Path, change: str) -> None:
    settings = json.loads((audited / "set.json").read_text())
    (audited / "set.json").write_text(json.dumps(settings | {change: "0123"}))
    with pytest.raises(InputError, match="has changed since its audit"):
        release(audited, tmp_path / "out")


def test_a_set_that_is_not_fit_for_use_needs_its_own_option(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    for file in sorted((drawn / "images").iterdir())[:16]:
        file.write_bytes((drawn / "images" / "000000.png").read_bytes())
    audit(one_run, drawn)
    for force in (False, True):
        with pytest.raises(InputErrors, match=r"is not fit for use[\s\S]*nearly equal[\s\S]*--allow_not_useful true"):
            release(drawn, tmp_path / "out", force=force)
    manifest = release(drawn, tmp_path / "out", allow_not_useful=True)
    sheet = (tmp_path / "out" / "README.md").read_text()
    assert "- Privacy check: passed" in sheet
    assert "- Fit for use: **no**, 25% of its images are nearly equal to another one of the set" in sheet
    assert audit_status(manifest, ["synthetic"]).warning.startswith(
        "the synthetic set is used for training; fit for use: no"
    )


def test_copies_of_one_class_are_not_dropped_in_a_large_set(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    """3 of 64 are less than 5 %, and 3 of 16."""
    ring = [image for image in SyntheticSet.open(drawn).images if image.label == "ring"]
    for image, which in zip(ring[:3], (1, 2, 3), strict=True):
        plant(drawn, image.number, "hospital_1", which)
    found = audit(one_run, drawn)
    assert any("3 of 16 images of class ring are copies" in text for text in found.safe.reasons)
    with pytest.raises(InputErrors, match="of class ring are copies"):
        release(drawn, tmp_path / "out", drop=True)


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


def test_a_set_with_copies_is_released_only_without_them(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    audit(one_run, drawn)
    with pytest.raises(InputErrors, match=r"1 of 64 images are copies[\s\S]*000005.png: a copy[\s\S]*--drop true"):
        release(drawn, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = rows(release(drawn, tmp_path / "out", drop=True))
    assert len(found) == 63
    assert "images/000005.png" not in {row["image"] for row in found}
    assert not (tmp_path / "out" / "images" / "000005.png").exists()
    assert "1 synthetic images were left out as copies" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["safe"]["answer"] == "yes"


def test_many_copies_are_not_dropped(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    for at in range(8):
        plant(drawn, at, "hospital_2", at)
    audit(one_run, drawn)
    with pytest.raises(InputErrors, match="the generator has memorised images"):
        release(drawn, tmp_path / "out", drop=True)


def test_the_datasheet_names_a_forced_release(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has no valid audit record \(.*is missing\); first: fedpretrain generate audit RUN"
    ):
        release(drawn, tmp_path / "out")
    with pytest.raises(InputError, match="name the run that it comes from by --run RUN"):
        release(drawn, tmp_path / "out", force=True)
    release(drawn, tmp_path / "unseen", force=True, run=one_run)
    assert "No hospital compared this set with its images" in (tmp_path / "unseen" / "README.md").read_text()
    plant(drawn, 5, "hospital_1", 7)
    audit(one_run, drawn)
    release(drawn, tmp_path / "out", force=True)
    sheet = (tmp_path / "out" / "README.md").read_text()
    assert "- Privacy check: **failed; released by force** (1 copy in 64 images" in sheet
    assert "- 1 of 64 images are copies of patients' images" in sheet


def test_a_set_changed_after_its_audit_is_an_error(audited: Path, tmp_path: Path) -> None:
    plant(audited, 5, "hospital_1", 7)
    for force in (False, True):
        with pytest.raises(InputError, match="has changed since its audit"):
            release(audited, tmp_path / "out", force=force)


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
