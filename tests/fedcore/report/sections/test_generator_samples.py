"""The page of a generator's run, from files as its sites and its audit write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.data.synthetic.audit_record import with_digest
from fedcore.report import write_comparison, write_report
from fedcore.report.sections.audit import figure
from tests.fedcore.report.test_report import read, shown_in_a_browser

MakeRun = Callable[..., Path]
SITES = ("hospital_1", "hospital_2")
SET = "0123abcd"


def pictures(count: int, seed: int = 0, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, side, side), dtype=np.uint8)


def write_exhibit(run: Path, site: str, side: int = 16, **other: np.ndarray) -> None:
    arrays = {
        "real": pictures(5, 1, side), "real_labels": np.array([0, 0, 0, 1, 1]),
        "drawn": pictures(8, 2, side), "drawn_labels": np.arange(8) // 4,
        "guesses": pictures(3, 3, side), "steps": np.array([1, 25, 50]), "step_count": np.array(50),
    }  # fmt: skip
    np.savez(run / "sites" / site / "exhibit.npz", **(arrays | other))


def write_lookalikes(run: Path, site: str, side: int = 16, **other: Any) -> None:
    arrays: dict[str, Any] = {"views": np.array(["pixels", "features"]), "set": np.array(SET)}
    for view in ("pixels", "features"):
        of = {
            "drawn": pictures(6, 4, side), "trained": pictures(6, 5, side), "numbers": np.arange(6) * 7,
            "closeness": np.linspace(0.05, 0.6, 6), "limit": np.array(0.3),
            "all": np.linspace(0.05, 1, 64), "held": np.linspace(0.4, 1, 30),
        }  # fmt: skip
        arrays |= {f"{view}_{key}": array for key, array in of.items()}
    np.savez(run / "sites" / site / "lookalikes.npz", **(arrays | other))


def verdict(answer: str, *because: str, not_measured: Sequence[str] = ()) -> dict[str, Any]:
    return {"answer": answer, "because": list(because), "not_measured": list(not_measured)}


def audit(**other: Any) -> dict[str, Any]:
    told = {
        "trained": 90.0,
        "held_out": 30.0,
        "copies_by_pixels": 1.0,
        "auc": 0.512,
        "kid": 0.012,
        "held_out_kid": -1e-9,
        "tstr": 0.31,
        "trtr": 0.62,
        "likeness": 0.7,
        "real_likeness": 0.5,
    }
    figures = {"fid": 12.34, "held_out_fid": 4.0}
    return {
        "name": "my_set", "set": SET, "images": 64, "left_out": [], "encoder": "ab",
        "safe": verdict("no", "1 of 64 images are copies of patients' images (drop them)"),
        "useful": verdict("no", "precision is 0.10", not_measured=["classes"]),
        "copies": {"000007.png": ["hospital_1"]}, "sites": dict.fromkeys(SITES, told),
        "quality": {"all": figures, "class normal": {"fid": None, "held_out_fid": None}, "site hospital_1": figures},
    } | other  # fmt: skip


@pytest.fixture
def drawing(make_run: MakeRun) -> MakeRun:
    """`drawing(name, audit)` writes a finished run of a generator, with an audit unless that is None."""

    def make(name: str = "diffusion", told: dict[str, Any] | None = None, **about: Any) -> Path:
        run = make_run(name, sites=SITES, command="generate", **about)
        for site in SITES:
            for file in ("samples.npz", "gallery.npz"):
                (run / "sites" / site / file).unlink()
            write_exhibit(run, site)
        lines = [json.loads(line) | {"survey": {}} for line in (run / "rounds.jsonl").read_text().splitlines()]
        (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "recipe.yaml").write_text("generator: {class_path: fedgen.diffusion.diffusion.Diffusion}\n")
        if told:
            (run / "audit.json").write_text(json.dumps(with_digest(told)))
            for site in SITES:
                write_lookalikes(run, site)
        return run

    return make


def test_every_section_of_an_audited_run(drawing: MakeRun) -> None:
    page = write_report(drawing(told=audit()))
    reader = read(page)
    for said in (
        "Privacy check Failed 1 copy among 64 images", "Fit for use No precision is 0.10",
        "Frechet distance 12.3 held-out images 4",
        "Drawn images beside real ones",
        "normal", "pneumonia", "at some of its 50 steps. 1 25 50",
        "Privacy check failed. 1 copy in 64 images of the set my_set",
        "Fit for use: no. precision is 0.10 not measured: classes", "0.310 0.620", "0.700 0.500",
        "by pixels and by features", "(drop them)", "hospital_1 90 30 1 0.512", "0.012 (0.000)", "Membership:",
        "000007.png hospital_1", "0.05 copy", "limit 0.3", "by features", "This page shows images of the sites.",
    ):  # fmt: skip
        assert said in reader.text, said
    for unsaid in (
        "Probe",
        "kNN",
        "collapse",
        "Nearest neighbours",
        "Recognised",
        "class normal",
        "What this page lacks",
    ):
        assert unsaid not in reader.text, unsaid
    text = page.read_text()
    assert text.count("This page shows images") == 1
    assert len(re.findall(r'alt="drawn image, (?:normal|pneumonia)"', text)) == 16
    assert len(re.findall(r'alt="the nearest trained image', text)) == 24
    assert text.count('<rect class="copy"') > 0


def test_a_run_without_an_audit_says_what_to_do(drawing: MakeRun) -> None:
    text = read(write_report(drawing())).text
    assert "Not audited." in text
    assert "fedpretrain generate audit" in text
    assert "passed" not in text


def test_a_set_that_passed(drawing: MakeRun) -> None:
    told = audit(
        safe=verdict("yes", not_measured=["hospital_1: recognition"]), useful=verdict("not measured", "no encoder"),
        copies={}, encoder=None, quality={}, left_out=[3, 4],
    )  # fmt: skip
    text = read(write_report(drawing(told=told))).text
    assert "Privacy check Passed 0 copies among 64 images" in text
    assert "Fit for use Not measured no encoder" in text
    assert "set my_set ; 2 were left out. Sites compared them by pixels alone" in text
    assert "not measured: hospital_1: recognition" in text
    assert "Frechet" not in text


@pytest.mark.parametrize(
    ("status", "said"),
    [("finished", "as sites of earlier versions do not"), ("stopped", "which this one has not reached"),
     ("running", "which this one has not reached")],
)  # fmt: skip
def test_a_run_without_drawn_images_opens_and_says_so(drawing: MakeRun, status: str, said: str) -> None:
    run = drawing(status=status)
    for path in run.glob("sites/*/exhibit.npz"):
        path.unlink()
    reader = read(write_report(run))
    assert said in reader.text
    assert "Drawn images beside" not in reader.text
    assert "gallery" not in reader.text


def test_a_generator_of_one_step_has_no_strip_and_without_classes_no_names(drawing: MakeRun) -> None:
    run = drawing()
    for site in SITES:
        one = {"real": pictures(4), "real_labels": np.full(4, -1), "drawn": pictures(4), "drawn_labels": np.full(4, -1)}
        np.savez(run / "sites" / site / "exhibit.npz", **one)
    text = read(write_report(run)).text
    assert "on its way from noise" not in text
    assert "without a class" not in text
    assert "unlabelled" not in text


def test_unlabelled_images_have_a_row_of_their_own(drawing: MakeRun) -> None:
    run = drawing()
    write_exhibit(run, "hospital_1", drawn_labels=np.array([0] * 4 + [-1] * 4))
    assert "without a class" in read(write_report(run)).text


def test_of_volumes_the_page_says_what_it_shows(drawing: MakeRun) -> None:
    assert "Of each volume the middle slice is shown." in read(write_report(drawing(space=(8, 8, 8)))).text


DAMAGED: list[dict[str, np.ndarray]] = [
    {"real_labels": np.zeros(2)},
    {"drawn": np.zeros((8, 9), np.uint8)},
    {"drawn": np.zeros(())},
    {"steps": np.zeros(2)},
    {"guesses": np.array([{}], dtype=object)},
    {"step_count": np.zeros(3)},
]


@pytest.mark.parametrize("other", DAMAGED)
def test_a_damaged_exhibit_leaves_the_others(drawing: MakeRun, other: dict[str, np.ndarray]) -> None:
    run = drawing()
    write_exhibit(run, "hospital_1", **other)
    page = write_report(run)
    assert "The drawn images of hospital_1 cannot be read." in read(page).text
    assert "image of hospital_2" in page.read_text()


@pytest.mark.parametrize(
    "other",
    [{"pixels_limit": np.array(np.nan)}, {"pixels_numbers": np.zeros(2)}, {"pixels_held": np.zeros(0)},
     {"views": np.array(["x"])}],
)  # fmt: skip
def test_damaged_lookalikes_leave_the_others(drawing: MakeRun, other: dict[str, np.ndarray]) -> None:
    run = drawing(told=audit())
    write_lookalikes(run, "hospital_1", **other)
    page = write_report(run)
    assert "What hospital_1 kept of the audit cannot be read." in read(page).text
    assert "the nearest trained image of hospital_2" in page.read_text()


def test_images_of_another_audit_are_not_shown(drawing: MakeRun) -> None:
    run = drawing(told=audit())
    write_lookalikes(run, "hospital_2", set=np.array("of another"))
    page = write_report(run)
    assert "hospital_2 kept images of another audit than the last" in read(page).text
    assert "the nearest trained image of hospital_2" not in page.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sites": 3, "copies": [1], "quality": {"all": 2}, "images": "x"}'])
def test_an_audit_of_whatever_kind_opens(drawing: MakeRun, text: str) -> None:
    run = drawing()
    (run / "audit.json").write_text(text)
    assert "Audit of a drawn set" in read(write_report(run)).text


def test_without_images_figures_stay_and_pictures_and_paths_go(drawing: MakeRun) -> None:
    run = drawing(told=audit(name="/clinic/Jane Doe/my_set"))
    page = write_report(run, images=False)
    reader = read(page)
    assert "hospital_1 90 30 1 0.512" in reader.text
    assert "img" not in reader.tags
    assert "closeness" not in re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.S)
    assert "Jane" not in page.read_text()


def test_no_text_of_an_audit_becomes_markup(drawing: MakeRun) -> None:
    evil = '<img src=x onerror="alert(1)"><script>'
    told = audit(
        name=evil,
        safe=verdict(evil, evil),
        useful=verdict("no", evil),
        copies={evil: [evil]},
        sites={evil: {"auc": 0.5}},
    )
    reader = read(write_report(drawing(told=told), images=False))
    assert reader.text.count(evil) >= 5
    assert "img" not in reader.tags


def test_many_sites_and_large_pictures_stay_a_small_page(make_run: MakeRun) -> None:
    sites = tuple(f"site_{at}" for at in range(60))
    run = make_run("many", sites=sites, rounds=2, command="generate")
    for path in [*run.glob("sites/*/samples.npz"), *run.glob("sites/*/gallery.npz")]:
        path.unlink()
    (run / "audit.json").write_text(json.dumps(audit()))
    for site in sites:
        write_exhibit(run, site, side=96)
        write_lookalikes(run, site, side=96)
    text = read(write_report(run)).text
    assert re.search(r"The drawn images of \d+ sites are left out to keep this page small", text)
    assert re.search(r"The nearest images of \d+ sites are left out to keep this page small", text)


def test_generators_are_compared_by_their_audits(drawing: MakeRun, make_run: MakeRun) -> None:
    runs = [drawing("one", audit(), data="x"), drawing("two", data="x")]
    text = read(write_comparison(runs, runs[0].parent / "a.html")).text
    assert "one failed 1 of 64 no 12.3 4 1.5 MB" in text
    assert "two – – – – – 1.5 MB" in text
    assert "Diffusion FedAvg" in text
    assert "kNN" not in text
    mixed = read(write_comparison([*runs, make_run("moco", data="x")], runs[0].parent / "b.html")).text
    assert "kNN, last" in mixed
    assert "Frechet distance" in mixed


def test_distances_by_different_encoders_are_not_ranked(drawing: MakeRun) -> None:
    runs = [drawing("one", audit()), drawing("two", audit(encoder="cd"))]
    assert "looked with different encoders" in read(write_comparison(runs)).text


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (3.0, "3"), (1234.0, "1,234"), (0.1234, "0.123"), (-1e-9, "0.000"), (12.34, "12.3")],
)
def test_figures_are_short(value: float | None, said: str) -> None:
    assert figure(value) == said


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, False)])
def test_a_browser_shows_it(drawing: MakeRun, tmp_path: Path, width: int, dark: bool) -> None:
    """Theme, a copy in red, and no sideways overflow."""
    shown = shown_in_a_browser(write_report(drawing(told=audit())), tmp_path, width, dark)
    paper, red = ((20, 22, 27), (255, 158, 149)) if dark else ((251, 251, 250), (179, 38, 30))
    assert {shown.getpixel((width - 3, y)) for y in range(0, 3000, 50)} == {paper}
    assert red in {colour for _, colour in shown.getcolors(1 << 24)}
