"""Which sets may not be released: copies, sets that changed after their audit; what is forced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedcore.data.synthetic.synthetic_set import audit_status
from fedcore.errors import InputError, InputErrors
from fedgen.auditing.run import audit
from fedgen.releases.release import release
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.auditing.test_run import plant
from tests.fedgen.releases.test_release import rows


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


@pytest.mark.slow
def test_copies_of_one_class_are_not_dropped_in_a_large_set(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    """3 of 64 are less than 5 %, and 3 of 16."""
    ring = [image for image in SyntheticSet.open(drawn).images if image.label == "ring"]
    for image, which in zip(ring[:3], (1, 2, 3), strict=True):
        plant(drawn, image.number, "hospital_1", which)
    found = audit(one_run, drawn)
    assert any("3 of 16 images of class ring are copies" in text for text in found.safe.reasons)
    with pytest.raises(InputErrors, match="of class ring are copies"):
        release(drawn, tmp_path / "out", drop=True)


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


@pytest.mark.slow
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
