"""A site's own page is made from its own folder alone, and agrees with its audit log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedcore.errors import InputError
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.report.read.site import SITE_FILE, read_site
from fedcore.report.site_page import PAGE, write_site_page
from fedcore.report.units import size
from tests.fedcore.report.page_reader import read
from tests.runs import code_of

NAMES = ("hospital_1", "hospital_2")
DATA = """--data.size 16 --data.phantom.sites 2 --data.phantom.images_per_site 80 --data.phantom.test_fraction 0.25
--rounds.count 2 --visit.batch_size 20 --visit.accelerator cpu --policy.min_patients 1"""
ENCODER = "--encoder.init_args.depth 10 --encoder.init_args.stem 4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site_page") / "a run"
    assert code_of(["pretrain", *DATA.split(), *ENCODER.split(), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def site(run: Path, tmp_path: Path) -> Path:
    """A site's folder, away from the run's, which a test may change."""
    return Path(shutil.copytree(run / "sites" / "hospital_1", tmp_path / "own"))


def lines(site: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (site / AUDIT_LOG).read_text().splitlines()]


def test_every_site_of_a_run_has_a_page_of_its_own(run: Path) -> None:
    for name, other in (NAMES, NAMES[::-1]):
        text = (run / "sites" / name / PAGE).read_text(encoding="utf-8")
        assert name in text
        assert other not in text
        assert str(run.parent) not in text
        assert "<img" in text


def test_its_numbers_are_those_of_the_audit_log_and_of_the_run(run: Path, site: Path) -> None:
    found, listed = read_site(site), lines(site)
    (totals,) = found.audit_logs.values()
    assert sum(one.count for one in totals.values()) == len(listed)
    assert sum(one.size for one in totals.values()) == sum(int(str(line["bytes"])) for line in listed)
    records = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [one.index for one in found.rounds] == [0, 1]
    for one, record in zip(found.rounds, records, strict=True):
        visit, theirs = one.visits["hospital_1"], record["sites"]["hospital_1"]
        assert visit.metrics == theirs["metrics"]
        assert (visit.examples, visit.reveals) == (theirs["examples"], theirs["reveals"])
        assert visit.up["weights"] == theirs["up"]["weights"]
        assert one.evaluation.get("hospital_1", {}) == record["evaluation"].get("hospital_1", {})
    assert totals["weights"].to == ("server",)
    assert found.sites == {"hospital_1": {"train": 60, "test": 20}}
    assert size(sum(one.size for one in totals.values())) in write_site_page(site).read_text(encoding="utf-8")


def test_a_page_without_images_has_no_pixel_of_a_site(site: Path, tmp_path: Path) -> None:
    page = read(write_site_page(site, images=False, out=tmp_path / "page.html"))
    assert "img" not in page.tags
    assert "views" not in page.ids
    assert "neighbours" not in page.ids


def test_an_answer_that_was_sent_again_counts_once_and_a_declined_request_is_shown(site: Path) -> None:
    log = (site / AUDIT_LOG).read_text()
    again = "".join(line + "\n" for line in log.splitlines() if json.loads(line)["round"] == 1)
    assert read_site(site).gaps == ()
    refusal = {**lines(site)[-1], "round": 2, "what": "refusal", "field": "refusal", "request": "train",
               "text": "the loss became nan", "bytes": 19}  # fmt: skip
    (site / AUDIT_LOG).write_text(log + again + json.dumps(refusal) + "\n")
    found = read_site(site)
    once = read_site_of(log, site.parent / "once")
    assert found.rounds[:2] == once.rounds
    assert found.rounds[2].refused == {"hospital_1": "the loss became nan"}
    text = write_site_page(site).read_text(encoding="utf-8")
    assert "the loss became nan" in text
    assert "1 declined request" in text


def read_site_of(log: str, folder: Path) -> object:
    folder.mkdir()
    (folder / AUDIT_LOG).write_text(log)
    (folder / SITE_FILE).write_text(json.dumps({"site": "hospital_1"}))
    return read_site(folder)


def test_earlier_runs_of_the_log_are_named_and_left_out(site: Path) -> None:
    first = {**lines(site)[0], "run": "an earlier one", "bytes": 10**9}
    (site / AUDIT_LOG).write_text(json.dumps(first) + "\n" + (site / AUDIT_LOG).read_text())
    found = read_site(site)
    assert sum(one.size for one in found.audit_logs["hospital_1"].values()) < 10**9
    assert "The audit log also lists 1 earlier run(s); this page is about the last one." in found.gaps


def test_a_line_that_was_removed_from_the_log_is_noticed(site: Path) -> None:
    kept = (site / AUDIT_LOG).read_text().splitlines(keepends=True)
    (site / AUDIT_LOG).write_text("".join(kept[:3] + kept[4:]))
    assert read_site(site).gaps == ("Line 3 of the audit log is missing or not in its place.",)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "\x00\xff",
        '{"round": 0}\n[1]\n',
        "<script>alert(1)</script>",
        '{"size": 3, "images": [1], "policy": 2, "classes": {}}',
    ],
)
@pytest.mark.parametrize("name", [AUDIT_LOG, SITE_FILE, "errors.jsonl", "feature_gallery.npz", "augmented_views.npz"])
def test_a_damaged_file_leaves_a_page(site: Path, name: str, damage: str) -> None:
    (site / name).write_text(damage, encoding="latin-1")
    text = write_site_page(site).read_text(encoding="utf-8")
    assert "<script" not in text


def test_texts_of_the_folder_are_escaped_and_errors_are_shown_to_the_site(site: Path) -> None:
    text = "ValueError: <script>patient Doe</script> /scans/Jane Doe/a.nii"
    error = {"round": 1, "error": text, "trace": "...", "run": ""}
    (site / "errors.jsonl").write_text(json.dumps(error) + "\n")
    (site / SITE_FILE).write_text(json.dumps({"site": "<script>x</script>", "images": {"train": 3}}))
    text = write_site_page(site).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "round 1: ValueError: &lt;script&gt;patient Doe" in text
    assert "/scans" not in text
    assert "patient Doe" not in write_site_page(site, images=False).read_text(encoding="utf-8")


def test_the_command_writes_it_again(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (site / PAGE).read_bytes()
    (site / PAGE).unlink()
    assert code_of(["report", site]) == 0
    assert capsys.readouterr().out == f"{site / PAGE}\n"
    assert len((site / PAGE).read_bytes()) >= len(before)
    (tmp_path / "notes.html").write_text("my notes")
    assert code_of(["report", site, "--out", tmp_path / "notes.html"]) == 2
    assert (tmp_path / "notes.html").read_text() == "my notes"


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give a site's own folder, such as checkpoints/<run>/sites/<site>"):
        write_site_page(tmp_path)
    assert not list(tmp_path.iterdir())
