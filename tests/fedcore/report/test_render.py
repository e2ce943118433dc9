"""The page as a whole: its sections, valid HTML, small, without requests."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import InputError
from fedcore.report import command, report_command, write_comparison, write_report
from fedcore.site.figure_files import FeatureGalleryFile
from tests.fedcore.report.compared_runs import runs_to_compare
from tests.fedcore.report.page_reader import read, shown_in_a_browser

MakeRun = Callable[..., Path]


def test_every_section_of_a_full_run(full_run: Path) -> None:
    page = write_report(full_run)
    assert page == full_run / "report.html"
    text = read(page).text
    for expected in (
        "Finished", "4 sites took part in 12 rounds on images of 64 × 64 pixels and 1 channel",
        "1,200 train, 400 test", "1 min 21 s", "1.5 MB", "2.1 MB", "feature vectors of single images",
        "Trained with 10 % of the labels", "0.830 to 0.920",
        "2 failed visits", "400 test, 1 left out", "Final scores by site", "No collapse.", "Map of the features",
        "the first two principal components", "hospital_2, normal", "Nearest neighbours",
        "10 of 20 neighbours have the same class", "Upload: sites to server Average round",
        "SAMPLES (images or samples like them)", "Most sensitive data sent",
        "kNN probe: accuracy", "1: ideal", "Effective rank",
        "This page shows images of the sites.", "Data sent and received", "exchange/features",
        "hospital_3, round 4: the loss became NaN", "hospital_4: 2 images could not be read",
        "hospital_2 holds 3 duplicates", "class_path: fedssl.SimCLR",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_table_of_traffic_adds_up(full_run: Path) -> None:
    text = read(write_report(full_run)).text
    assert "hospital_1 12 18 MB 14.4 MB 3.6 MB 192 B 25.2 MB 14.4 MB 10.8 MB 0 B FEATURES 24 18 MB" in text
    assert "hospital_3 10 + 2 failed 15 MB" in text


def test_sections_without_data_are_absent(make_run: MakeRun) -> None:
    folder = make_run(rounds=0, planned=20, status="running", notes=[])
    shutil.rmtree(folder / "sites")
    reader = read(write_report(folder))
    assert "The end of this run is not recorded." in reader.text
    assert "0 of 20 planned" in reader.text
    headings = re.findall(r"<h2>(.*?)</h2>", (folder / "report.html").read_text())
    assert headings == ["Recipe and environment"]


def test_a_failed_run_says_why(make_run: MakeRun) -> None:
    text = read(write_report(make_run(status="failed", error="every site refused round 3"))).text
    assert "The run failed. every site refused round 3" in text


def test_a_finetuning_that_left_scores_alone(make_run: MakeRun, full_run: Path) -> None:
    folder = make_run("tune", command="finetune", rounds=1)
    (folder / "scores.json").write_text(
        (full_run / "scores.json").read_text().replace('"checkpoints/x/encoder"', "null")
    )
    (folder / "rounds.jsonl").unlink()
    text = read(write_report(folder)).text
    assert "fedpretrain finetune" in text
    assert "Start: random initialisation" in text
    assert "AUROC 0.880" in text


@pytest.mark.parametrize("lost", ["run.json", "rounds.jsonl", "recipe.yaml", "environment.json", "sites"])
def test_a_page_comes_of_whatever_is_there(full_run: Path, lost: str) -> None:
    gone = full_run / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert "shared-bank-simclr" in read(write_report(full_run)).text


def test_no_text_of_a_run_becomes_markup(make_run: MakeRun) -> None:
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    name = "a\"'><b onclick=x>&amp;"
    folder = make_run(
        "<i>run", sites=(name,), notes=[evil], skipped=[evil], status="failed", error=evil, classes=[evil]
    )
    (folder / "environment.json").write_text(json.dumps({evil: evil}))
    (folder / "recipe.yaml").write_text(f"{evil}\n</pre></details>")
    with (folder / "rounds.jsonl").open("a") as file:
        kinds = {evil: 3, "</svg>": 4}
        visit = {"metrics": {"loss": 1.0}, "up": kinds, "reveals": evil}
        file.write(
            json.dumps({"round": 12, "sites": {name: visit}, "refused": {name: evil}, "evaluation": {name: {evil: 1}}})
            + "\n"
        )
    reader = read(write_report(folder))
    assert reader.text.count(evil.replace("/", "")) >= 9  # what follows a slash is taken for a path, and shortened
    assert name in reader.text
    assert "<i>run" in reader.text
    assert "i" not in reader.tags


def test_lone_surrogates_and_bytes_that_are_no_text_do_not_stop_the_page(make_run: MakeRun) -> None:
    folder = make_run(sites=("s\udc80",), notes=["\udcff"], rounds=0)
    with (folder / "recipe.yaml").open("ab") as file:
        file.write(b"\xff\xfe")
    assert "s?" in read(write_report(folder)).text


def test_without_images_no_pixel_and_no_path_is_left(full_run: Path) -> None:
    about = json.loads((full_run / "run.json").read_text())
    about |= {"notes": ["read /clinic/Jane Doe/manifest.csv"], "error": "/clinic/Jane Doe/x.png is empty"}
    (full_run / "run.json").write_text(json.dumps(about))
    assert "img" in read(write_report(full_run)).tags
    reader = read(write_report(full_run, images=False))
    page = (full_run / "report.html").read_text()
    assert "img" not in reader.tags
    assert "base64" not in page
    assert "This page shows images" not in page
    assert "Map of the features" not in reader.text
    assert "Nearest neighbours" not in reader.text
    assert "gallery" not in reader.text
    assert "Doe" not in page
    assert "/clinic" not in page
    assert "manifest: manifest.csv" in reader.text


def test_large_images_stay_small_and_the_page_says_what_is_left_out(make_run: MakeRun) -> None:
    folder = make_run(sites=tuple(f"site_{at}" for at in range(8)), rounds=3, space=(112, 112), channels=3)
    assert re.search(r"The augmented views of \d+ sites are left out", read(write_report(folder)).text)


def test_volumes_show_slices(make_run: MakeRun) -> None:
    text = read(write_report(make_run(space=(8, 12, 10), rounds=3))).text
    assert "the three middle slices" in text
    assert "8 × 12 × 10 voxels" in text


def test_colours_follow_the_site_through_every_figure(full_run: Path) -> None:
    page = write_report(full_run).read_text()
    for at in range(4):
        owners = set(re.findall(rf'<g class="s{at} d0"><path[^>]*><title>([^<:]*)', page))
        owners |= set(re.findall(rf'<span class="swatch s{at} d0"></span>([^<, ]*)', page))
        assert owners == {f"hospital_{at + 1}"}


def test_the_same_run_gives_the_same_page_and_nothing_else_is_left(full_run: Path) -> None:
    before = {path.name for path in full_run.iterdir()}
    first = write_report(full_run).read_bytes()
    assert write_report(full_run).read_bytes() == first
    assert {path.name for path in full_run.iterdir()} == before | {"report.html"}


def test_the_command_prints_where_the_page_is(full_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_command([full_run], images=False)
    assert capsys.readouterr().out.strip() == str(full_run / "report.html")


def test_every_error_of_the_data_layer_is_shown(make_run: MakeRun) -> None:
    faults = [f"row {at}: the image cannot be read" for at in range(400)]
    text = read(write_report(make_run(skipped=faults, notes=["columns ignored: 'licence'"]))).text
    assert all(fault in text for fault in faults)
    assert "All 400 errors" in text
    assert "columns ignored: 'licence'" in text


def test_texts_of_any_length_stay_a_small_page(make_run: MakeRun) -> None:
    folder = make_run(skipped=["x" * 300] * 20_000)
    (folder / "recipe.yaml").write_text("a: b: no YAML\n" + "x\n" * 1_000_000)
    text = read(write_report(folder)).text
    assert "and 18,667 more; run.json lists all." in text
    assert "cut here: the file is longer" in text


def test_a_run_without_galleries_says_so(make_run: MakeRun) -> None:
    folder = make_run()
    for path in folder.glob(f"sites/*/{FeatureGalleryFile.NAME}"):
        path.unlink()
    reader = read(write_report(folder))
    assert "No site kept a feature gallery" in reader.text
    assert "Map of the features" not in reader.text
    running = read(write_report(make_run("running", status="running", sites=())))
    assert "gallery" not in running.text


def test_a_damaged_gallery_leaves_the_others(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "sites" / "hospital_2" / FeatureGalleryFile.NAME).write_bytes(b"PK")
    reader = read(write_report(folder))
    assert "The feature gallery of hospital_2 cannot be read." in reader.text
    assert reader.text.count("neighbours have the same class") == 3


def test_different_encoders_are_reported(make_run: MakeRun, write_gallery: Callable[..., None]) -> None:
    folder = make_run()
    assert "different encoders" not in read(write_report(folder)).text
    write_gallery(folder / "sites" / "hospital_1", encoder_checksum=np.array(8))
    assert "different encoders" in read(write_report(folder)).text


def test_fifty_sites_have_every_section_in_a_small_page(make_run: MakeRun) -> None:
    text = read(write_report(make_run(sites=tuple(f"site_{at}" for at in range(50))))).text
    assert "39 others" in text
    assert "site_49" in text
    assert "Map of the features" in text


def test_the_command_line(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, page = str(make_run("a")), str(make_run("b")), tmp_path / "compared.html"
    command([one, "--images", "false"])
    command([one, other, "--out", str(page)])
    assert capsys.readouterr().out.split() == [f"{one}/report.html", str(page)]
    assert "base64" not in (Path(one) / "report.html").read_text()
    assert "Comparison of 2 runs" in page.read_text()
    for wrong in ([], [one, "--image", "false"], [one, "--images", "perhaps"]):
        with pytest.raises(InputError, match=r"usage: fedpretrain report RUN \[RUN \.\.\.\]"):
            command(wrong)
    with pytest.raises(InputError, match="there is no such folder"):
        command([one, str(tmp_path / "absent")])


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, False)])
@pytest.mark.parametrize("several", [False, True])
def test_a_browser_shows_it(
    full_run: Path, make_run: MakeRun, write_scores: Callable[..., None], tmp_path: Path,
    width: int, dark: bool, several: bool,
) -> None:  # fmt: skip
    """The screenshot has the theme's paper, an accent and no sideways overflow (paper at the right edge)."""
    page = write_comparison(runs_to_compare(make_run, write_scores)) if several else write_report(full_run)
    shown = shown_in_a_browser(page, tmp_path, width, dark)
    paper = (20, 22, 27) if dark else (251, 251, 250)
    colours = {colour for _, colour in shown.getcolors(1 << 24)}
    assert {shown.getpixel((width - 3, y)) for y in range(0, 3000, 50)} == {paper}
    assert ((74, 163, 223) if dark else (0, 114, 178)) in colours


@pytest.mark.slow
def test_errors_on_the_console_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"><script>1</script>")
    with pytest.raises(AssertionError):
        shown_in_a_browser(page, tmp_path, 500, False)
