"""The page as a whole: what it says, that it is sound HTML, small, and asks nothing of the network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fedcore.report import report_command, write_report

MakeRun = Callable[..., Path]
_VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Balances tags; collects the texts, the tags and every attribute that could make a request."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(page: Path) -> Reader:
    """The page, having passed what must hold of every page."""
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.open == []
    assert len(text.encode()) < 5_000_000
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert not reader.tags & {"script", "iframe", "link", "object", "embed", "base"}
    return reader


def test_every_section_of_a_full_run(full_run: Path) -> None:
    page = write_report(full_run)
    assert page == full_run / "report.html"
    text = read(page).text
    for said in (
        "Finished", "4 sites took part in 12 rounds on images of 64 × 64 pixels and 1 channel",
        "1,200 train, 400 test", "1 min 21 s", "1.5 MB", "2.1 MB", "feature vectors of single images",
        "Ten per cent of the labels", "0.74 (0.69-0.79)", "trained with 10 % of the labels", "0.830 to 0.920",
        "2 refusals", "Probe: accuracy of nearest neighbours", "1, spread evenly", "Effective rank",
        "This page shows images of the sites.", "What crossed the sites' borders", "exchange/features",
        "hospital_3, round 4: the loss became NaN", "hospital_4: 2 images could not be read",
        "hospital_2 holds 3 duplicates", "class_path: fedssl.SimCLR",
    ):  # fmt: skip
        assert said in text, said


def test_the_ledger_adds_up(full_run: Path) -> None:
    text = read(write_report(full_run)).text
    assert "hospital_1 12 18 MB 14.4 MB 3.6 MB 192 B 25.2 MB 14.4 MB 10.8 MB 0 B features 24 18 MB" in text
    assert "hospital_3 10 + 2 refused 15 MB" in text


def test_sections_without_data_are_absent(make_run: MakeRun) -> None:
    folder = make_run(rounds=0, planned=20, status="running", notes=[])
    shutil.rmtree(folder / "sites")
    reader = read(write_report(folder))
    assert "has not said that it ended" in reader.text
    assert "0 of 20 planned" in reader.text
    headings = re.findall(r"<h2>(.*?)</h2>", (folder / "report.html").read_text())
    assert headings == ["How to repeat it"]


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
    assert "starting from random weights" in text
    assert "AUROC 0.880" in text


@pytest.mark.parametrize("lost", ["run.json", "rounds.jsonl", "recipe.yaml", "environment.json", "sites"])
def test_a_page_comes_of_whatever_is_there(full_run: Path, lost: str) -> None:
    gone = full_run / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert "shared-bank-simclr" in read(write_report(full_run)).text


def test_no_text_of_a_run_becomes_markup(make_run: MakeRun) -> None:
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    name = "a\"'><b onclick=x>&amp;"
    folder = make_run("<i>run", sites=(name,), notes=[evil], faults=[evil], status="failed", error=evil, classes=[evil])
    (folder / "table.json").write_text(
        json.dumps({"title": evil, "columns": [evil], "rows": [[evil, evil]], "note": evil})
    )
    (folder / "environment.json").write_text(json.dumps({evil: evil}))
    (folder / "recipe.yaml").write_text(f"{evil}\n</pre></details>")
    with (folder / "rounds.jsonl").open("a") as file:
        kinds = {evil: 3, "</svg>": 4}
        visit = {"metrics": {"loss": 1.0}, "up": kinds, "reveals": evil}
        file.write(
            json.dumps({"round": 12, "sites": {name: visit}, "refused": {name: evil}, "survey": {name: {evil: 1}}})
            + "\n"
        )
    reader = read(write_report(folder))
    assert reader.text.count(evil) >= 9
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
    assert "Doe" not in page
    assert "/clinic" not in page
    assert "manifest: manifest.csv" in reader.text


def test_many_sites_and_rounds_stay_small_and_say_what_they_left_out(make_run: MakeRun) -> None:
    sites = tuple(f"site_{at}" for at in range(40))
    folder = make_run(sites=sites, rounds=40, space=(112, 112), channels=3)
    assert re.search(r"The images of \d+ sites are left out", read(write_report(folder)).text)


def test_volumes_show_slices(make_run: MakeRun) -> None:
    text = read(write_report(make_run(space=(8, 12, 10), rounds=3))).text
    assert "the three middle slices" in text
    assert "8 × 12 × 10 voxels" in text


def test_colours_follow_the_site_through_every_figure(full_run: Path) -> None:
    page = write_report(full_run).read_text()
    for at in range(4):
        owners = set(re.findall(rf'<g class="s{at} d0"><path[^>]*><title>([^<]*)', page))
        owners |= set(re.findall(rf'<span class="swatch s{at} d0"></span>([^<,]*)', page))
        assert owners == {f"hospital_{at + 1}"}


def test_the_same_run_gives_the_same_page_and_nothing_else_is_left(full_run: Path) -> None:
    before = {path.name for path in full_run.iterdir()}
    first = write_report(full_run).read_bytes()
    assert write_report(full_run).read_bytes() == first
    assert {path.name for path in full_run.iterdir()} == before | {"report.html"}


def test_the_command_prints_where_the_page_is(full_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_command(full_run, images=False)
    assert capsys.readouterr().out.strip() == str(full_run / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, False)])
def test_a_browser_shows_it(full_run: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """The screenshot has the theme's paper, an accent and no sideways overflow (paper at the right edge)."""
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    picture = tmp_path / "page.png"
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync hide-scrollbars"
    flags += f" blink-settings=preferredColorScheme={0 if dark else 1} window-size={width},3000"
    flags += f" user-data-dir={tmp_path / 'profile'} screenshot={picture}"
    page = write_report(full_run).as_uri()
    command = [chromium, *(f"--{flag}" for flag in flags.split()), page]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = Image.open(picture).convert("RGB")
    paper = (20, 22, 27) if dark else (251, 251, 250)
    colours = {colour for _, colour in shown.getcolors(1 << 24)}
    assert {shown.getpixel((width - 3, y)) for y in range(0, 3000, 50)} == {paper}
    assert ((74, 163, 223) if dark else (0, 114, 178)) in colours
