"""The page of a generator's run, from files as its sites and its audit write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.data.synthetic.audit_record import with_digest
from fedcore.report import write_comparison, write_report
from fedcore.site.figure_files import AugmentedViewsFile, FeatureGalleryFile, GeneratorSamplesFile
from tests.fedcore.report.page_reader import read, shown_in_a_browser
from tests.fedcore.report.sections.generator_files import (
    SITES,
    MakeRun,
    audit,
    pictures,
    verdict,
    write_pairs,
    write_samples,
)


@pytest.fixture
def generator_run(make_run: MakeRun) -> MakeRun:
    """`generator_run(name, audit)` writes a finished run of a generator, with an audit unless that is None."""

    def make(name: str = "diffusion", record: dict[str, Any] | None = None, **about: Any) -> Path:
        run = make_run(name, sites=SITES, command="generate", **about)
        for site in SITES:
            for file in (AugmentedViewsFile.NAME, FeatureGalleryFile.NAME):
                (run / "sites" / site / file).unlink()
            write_samples(run, site)
        lines = [json.loads(line) | {"evaluation": {}} for line in (run / "rounds.jsonl").read_text().splitlines()]
        (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "recipe.yaml").write_text("generator: {class_path: fedgen.diffusion.diffusion.Diffusion}\n")
        if record:
            (run / "audit.json").write_text(json.dumps(with_digest(record)))
            for site in SITES:
                write_pairs(run, site)
        return run

    return make


def test_every_section_of_an_audited_run(generator_run: MakeRun) -> None:
    page = write_report(generator_run(record=audit()))
    reader = read(page)
    for expected in (
        "Privacy check Failed 1 copy in 64 images", "Fit for use No precision is 0.10",
        "Frechet distance 12.3 held-out images: 4",
        "Real and synthetic images",
        "normal", "pneumonia", "at some of 50 steps. 1 25 50",
        "Privacy check failed. 1 copy in 64 images of the set my_set",
        "Fit for use: no. precision is 0.10 not measured: classes", "0.310 0.620", "0.700 0.500",
        "by pixels and by features", "(drop them)", "hospital_1 90 30 1 0.512", "0.012 (0.000)", "Membership AUC:",
        "000007.png hospital_1", "0.05 copy", "limit 0.3", "by features", "This page shows images of the sites.",
    ):  # fmt: skip
        assert expected in reader.text, expected
    for absent in (
        "Probe",
        "kNN",
        "collapse",
        "Nearest neighbours",
        "TPR at 1 %",
        "class normal",
        "Missing from this page",
    ):
        assert absent not in reader.text, absent
    text = page.read_text()
    assert text.count("This page shows images") == 1
    assert len(re.findall(r'alt="synthetic image, (?:normal|pneumonia)"', text)) == 16
    assert len(re.findall(r'alt="the nearest training image', text)) == 24
    assert text.count('<rect class="copy"') > 0


def test_a_run_without_an_audit_says_what_to_do(generator_run: MakeRun) -> None:
    text = read(write_report(generator_run())).text
    assert "Not audited." in text
    assert "fedpretrain generate audit" in text
    assert "passed" not in text


def test_a_set_that_passed(generator_run: MakeRun) -> None:
    record = audit(
        safe=verdict("yes", not_measured=["hospital_1: recognition"]), useful=verdict("not measured", "no encoder"),
        copies={}, encoder=None, quality={}, left_out=[3, 4],
    )  # fmt: skip
    text = read(write_report(generator_run(record=record))).text
    assert "Privacy check Passed 0 copies in 64 images" in text
    assert "Fit for use Not measured no encoder" in text
    assert "set my_set ; 2 were left out. Images were compared by pixels only" in text
    assert "not measured: hospital_1: recognition" in text
    assert "Frechet" not in text


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "No site kept synthetic images."), ("stopped", "this run has not ended"),
     ("running", "this run has not ended")],
)  # fmt: skip
def test_a_run_without_synthetic_images_says_so(generator_run: MakeRun, status: str, expected: str) -> None:
    run = generator_run(status=status)
    for path in run.glob(f"sites/*/{GeneratorSamplesFile.NAME}"):
        path.unlink()
    reader = read(write_report(run))
    assert expected in reader.text
    assert "Real and synthetic" not in reader.text
    assert "gallery" not in reader.text


def test_a_generator_of_one_step_has_no_denoising_and_without_classes_no_names(generator_run: MakeRun) -> None:
    run = generator_run()
    for site in SITES:
        one = {
            "real": pictures(4), "real_labels": np.full(4, -1),
            "synthetic": pictures(4), "synthetic_labels": np.full(4, -1),
        }  # fmt: skip
        np.savez(run / "sites" / site / GeneratorSamplesFile.NAME, **one)
    text = read(write_report(run)).text
    assert "Denoising" not in text
    assert "no class" not in text
    assert "unlabelled" not in text


def test_unlabelled_images_have_a_row_of_their_own(generator_run: MakeRun) -> None:
    run = generator_run()
    write_samples(run, "hospital_1", synthetic_labels=np.array([0] * 4 + [-1] * 4))
    assert "no class" in read(write_report(run)).text


def test_the_page_says_which_slice_of_a_volume_it_shows(generator_run: MakeRun) -> None:
    assert "Of each volume the middle slice is shown." in read(write_report(generator_run(space=(8, 8, 8)))).text


DAMAGED: list[dict[str, np.ndarray]] = [
    {"real_labels": np.zeros(2)},
    {"synthetic": np.zeros((8, 9), np.uint8)},
    {"synthetic": np.zeros(())},
    {"steps": np.zeros(2)},
    {"denoised": np.array([{}], dtype=object)},
    {"step_count": np.zeros(3)},
]


@pytest.mark.parametrize("other", DAMAGED)
def test_a_damaged_file_leaves_the_others(generator_run: MakeRun, other: dict[str, np.ndarray]) -> None:
    run = generator_run()
    write_samples(run, "hospital_1", **other)
    page = write_report(run)
    assert "The synthetic images of hospital_1 cannot be read." in read(page).text
    assert "image of hospital_2" in page.read_text()


@pytest.mark.parametrize(
    "other",
    [{"pixels_limit": np.array(np.nan)}, {"pixels_numbers": np.zeros(2)}, {"pixels_held_out_closeness": np.zeros(0)},
     {"views": np.array(["x"])}],
)  # fmt: skip
def test_damaged_pairs_leave_the_others(generator_run: MakeRun, other: dict[str, np.ndarray]) -> None:
    run = generator_run(record=audit())
    write_pairs(run, "hospital_1", **other)
    page = write_report(run)
    assert "The nearest pairs of hospital_1 cannot be read." in read(page).text
    assert "the nearest training image of hospital_2" in page.read_text()


def test_images_of_another_audit_are_not_shown(generator_run: MakeRun) -> None:
    run = generator_run(record=audit())
    write_pairs(run, "hospital_2", set=np.array("of another"))
    page = write_report(run)
    assert "The nearest pairs of hospital_2 are not of the last audit" in read(page).text
    assert "the nearest training image of hospital_2" not in page.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sites": 3, "copies": [1], "quality": {"all": 2}, "images": "x"}'])
def test_any_audit_file_opens(generator_run: MakeRun, text: str) -> None:
    run = generator_run()
    (run / "audit.json").write_text(text)
    assert "Audit of a synthetic set" in read(write_report(run)).text


def test_without_images_numbers_stay_and_pictures_and_paths_go(generator_run: MakeRun) -> None:
    run = generator_run(record=audit(name="/clinic/Jane Doe/my_set"))
    page = write_report(run, images=False)
    reader = read(page)
    assert "hospital_1 90 30 1 0.512" in reader.text
    assert "img" not in reader.tags
    assert "closeness" not in re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.S)
    assert "Jane" not in page.read_text()


def test_no_text_of_an_audit_becomes_markup(generator_run: MakeRun) -> None:
    evil = '<img src=x onerror="alert(1)"><script>'
    record = audit(
        name=evil,
        safe=verdict(evil, evil),
        useful=verdict("no", evil),
        copies={evil: [evil]},
        sites={evil: {"membership_auc": 0.5}},
    )
    reader = read(write_report(generator_run(record=record), images=False))
    assert reader.text.count(evil) >= 5
    assert "img" not in reader.tags


def test_many_sites_and_large_pictures_stay_a_small_page(make_run: MakeRun) -> None:
    sites = tuple(f"site_{at}" for at in range(60))
    run = make_run("many", sites=sites, rounds=2, command="generate")
    for path in [*run.glob("sites/*/augmented_views.npz"), *run.glob("sites/*/feature_gallery.npz")]:
        path.unlink()
    (run / "audit.json").write_text(json.dumps(audit()))
    for site in sites:
        write_samples(run, site, side=96)
        write_pairs(run, site, side=96)
    text = read(write_report(run)).text
    assert re.search(r"The synthetic images of \d+ sites are left out to keep this page small", text)
    assert re.search(r"The nearest pairs of \d+ sites are left out to keep this page small", text)


def test_generators_are_compared_by_their_audits(generator_run: MakeRun, make_run: MakeRun) -> None:
    runs = [generator_run("one", audit(), data="x"), generator_run("two", data="x")]
    text = read(write_comparison(runs, runs[0].parent / "a.html")).text
    assert "one failed 1 of 64 no 12.3 4 1.5 MB" in text
    assert "two – – – – – 1.5 MB" in text
    assert "Diffusion FedAvg" in text
    assert "kNN" not in text
    mixed = read(write_comparison([*runs, make_run("moco", data="x")], runs[0].parent / "b.html")).text
    assert "kNN, last" in mixed
    assert "Frechet distance" in mixed


def test_distances_by_different_encoders_are_not_ranked(generator_run: MakeRun) -> None:
    runs = [generator_run("one", audit()), generator_run("two", audit(encoder="cd"))]
    assert "audits used different encoders" in read(write_comparison(runs)).text


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, False)])
def test_a_browser_shows_it(generator_run: MakeRun, tmp_path: Path, width: int, dark: bool) -> None:
    """Theme, a copy in red, and no sideways overflow."""
    shown = shown_in_a_browser(write_report(generator_run(record=audit())), tmp_path, width, dark)
    paper, red = ((20, 22, 27), (255, 158, 149)) if dark else ((251, 251, 250), (179, 38, 30))
    assert {shown.getpixel((width - 3, y)) for y in range(0, 3000, 50)} == {paper}
    assert red in {colour for _, colour in shown.getcolors(1 << 24)}
