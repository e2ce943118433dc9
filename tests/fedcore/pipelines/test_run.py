from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fedcore.data.phantom.phantoms import Phantoms
from fedcore.errors import InputError, InputErrors
from fedcore.pipelines import run as road
from fedcore.pipelines.run import Road, command, travel
from fedcore.pipelines.spec import read_steps
from fedcore.runs.folder import RunFolder
from tests.fedcore.audits import write_audit

ROAD = """
shared: {data.size: 32, seed: 1}
steps:
  encoder: {do: pretrain simclr, rounds.count: 2}
  drawn: {do: "generate sample {encoder} {here}", count: 8}
  audit: {do: "generate audit {encoder} {drawn}"}
  tuned: {do: finetune classify, start: "{encoder}", each: {label_fraction: [0.1, 1.0]}}
  released: {do: "generate release {drawn} {here}", after: audit}
"""
TRAINED = """
shared: {data.phantom: {sites: 2, images_per_site: 40}, data.size: 16, visit.max_epochs: 1, encoder.init_args.stem: 8,
         policy.min_patients: 1}
steps:
  encoder: {do: pretrain simclr, rounds.count: 1, probe: null}
  drawn: {do: "generate sample checkpoints/none {here}"}
  scratch: {do: finetune classify, rounds.count: 1, each: {label_fraction: [0.5, 1.0]}}
  ours: {do: finetune classify, rounds.count: 1, label_fraction: 0.5, start: "{encoder}", each: {seed: {a: 0, b: 1}}}
  with_drawn: {do: finetune classify, rounds.count: 1, data.synthetic.manifest: "{drawn}/manifest.csv"}
"""
Done = list[tuple[str, list[str]]]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What was dispatched; nothing is done."""
    found: Done = []
    monkeypatch.setattr(road, "dispatch", lambda name, words: found.append((name, words)) or 0)
    return found


@pytest.fixture
def walk(tmp_path: Path) -> Callable[..., Road]:
    """Does the steps of a text under one folder."""

    def walk(text: str, overrides: Mapping[str, str] = {}) -> Road:
        (tmp_path / "road.yaml").write_text(text)
        made = Road(tmp_path / "out")
        made.do(read_steps(tmp_path / "road.yaml", overrides))
        return made

    return walk


def test_steps_are_commands_with_the_folders_of_earlier_ones(done: Done, walk: Callable[..., Road]) -> None:
    assert not walk(ROAD, {"data.size": "48"}).failed
    names = [name for name, _ in done]
    assert names == ["pretrain", "generate", "generate", "finetune", "finetune", "generate"]
    encoder = done[0][1][done[0][1].index("--out") + 1]
    assert done[0][1] == ["simclr", "--data.size", "48", "--seed", "1", "--rounds.count", "2", "--out", encoder,
                          "--resume", "true"]  # fmt: skip
    drawn = done[1][1][2]
    assert done[1][1] == ["sample", encoder, drawn, "--count", "8"]
    assert done[2][1] == ["audit", encoder, drawn]
    tuned = [words for name, words in done if name == "finetune"]
    assert [words[words.index("--label_fraction") + 1] for words in tuned] == ["0.1", "1.0"]
    assert all(words[words.index("--start") + 1] == encoder for words in tuned)
    assert len({words[words.index("--out") + 1] for words in tuned}) == 2


def test_what_is_done_is_not_repeated_and_what_changed_is_done_elsewhere(
    done: Done, walk: Callable[..., Road], capsys: pytest.CaptureFixture[str]
) -> None:
    walk(ROAD)
    count = len(done)
    walk(ROAD)
    assert len(done) == count
    assert capsys.readouterr().out.count("done before") == 6
    walk(ROAD.replace("count: 8", "count: 9"))
    assert [name for name, _ in done[count:]] == ["generate"] * 3  # the set, its audit and its release
    assert done[count][1][2] != done[1][1][2]
    again = len(done)
    walk(ROAD, {"seed": "2"})
    assert len(done) - again == 6  # the encoder, and all that stands on it
    last = len(done)
    walk(ROAD)
    assert len(done) == last  # as at first, whatever was done in between
    walk(ROAD, {"workers": "2"})
    assert len(done) == last  # no number hangs on it


def test_an_image_that_changed_is_an_input_that_changed(
    done: Done, walk: Callable[..., Road], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPRETRAIN_CACHE", str(tmp_path / "cache"))
    manifest = Phantoms(sites=1, images_per_site=4).write(tmp_path / "pictures", 32)
    (tmp_path / "mine.yaml").write_text(f"data: {{manifest: {manifest}}}\n")
    text = f"steps: {{encoder: {{do: pretrain {tmp_path / 'mine.yaml'}}}}}"
    for expected in (1, 1):
        walk(text)
        assert len(done) == expected
    picture = tmp_path / "pictures" / "hospital_1" / "00001.png"
    picture.write_bytes((tmp_path / "pictures" / "hospital_1" / "00002.png").read_bytes())
    walk(text)
    assert len(done) == 2


def test_what_needs_a_failed_step_is_left_out_and_all_else_is_done(
    done: Done, walk: Callable[..., Road], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refusing(name: str, words: list[str]) -> int:
        done.append((name, words))
        if words[0] == "audit":
            raise InputError("too few images")
        return 0

    monkeypatch.setattr(road, "dispatch", refusing)
    assert walk(ROAD).failed == {"audit": "too few images", "released": "left out, since it needs audit"}
    assert [words[0] for name, words in done if name == "generate"] == ["sample", "audit"]
    assert sum(name == "finetune" for name, _ in done) == 2
    ended = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert ended["audit"] == "failed"
    assert "released" not in ended
    ledger = json.loads((tmp_path / "out" / "road.json").read_text())
    assert {about["step"].split("_")[0] for about in ledger.values()} == {"encoder", "drawn", "tuned"}


def test_what_a_stopped_step_left_half_made_begins_anew_unless_it_goes_on(
    walk: Callable[..., Road], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
steps:
  encoder: {do: pretrain simclr}
  drawn: {do: "generate sample {encoder} {here}", resume: true}
  released: {do: "generate release {drawn} {here}"}
"""
    seen: list[list[str]] = []

    def leaving(name: str, words: list[str]) -> int:
        place = Path(words[words.index("--out") + 1] if name == "pretrain" else words[2])
        seen.append(sorted(path.name for path in place.iterdir()) if place.exists() else [])
        place.mkdir(parents=True, exist_ok=True)
        (place / ("run.json" if name == "pretrain" else "manifest.csv")).touch()
        if len(seen) in stopped:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(road, "dispatch", leaving)
    stopped = {1, 3, 5}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            walk(text)
    walk(text)
    assert seen == [[], ["run.json"], [], ["manifest.csv"], [], []]


def test_a_road_ends_with_its_scores_and_one_page_and_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(TRAINED)
    with pytest.raises(InputError) as caught:
        travel(path, tmp_path / "out")
    assert str(caught.value).splitlines()[0] == "2 steps of 7 not done; the same command tries again"
    assert "  drawn: " in str(caught.value)
    assert "  with_drawn: left out, since it needs drawn" in str(caught.value)
    out = capsys.readouterr().out
    head, scratch, ours = out[out.index("Balanced accuracy") :].splitlines()[:3]
    assert head.split() == ["Balanced", "accuracy,", "by", "labels", "50", "%", "100", "%"]
    assert (scratch.split()[0], "-" in scratch.split()) == ("scratch", False)
    assert (ours.split()[0], ours.split()[-1]) == ("ours", "-")  # two seeds of one fraction
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"report: {tmp_path / 'out' / 'report.html'}" in out
    assert "How few labels suffice" in page
    assert all(name in page for name in ("ours_a", "scratch_0.5", "scratch</"))
    assert str(tmp_path) not in page
    path.write_text("\n".join(line for line in TRAINED.splitlines() if "drawn" not in line))
    assert travel(path, tmp_path / "out") == 0
    assert capsys.readouterr().out.count("done before") == 5


def test_the_line_of_a_step_comes_after_the_bars_or_lines_of_its_rounds(
    done: Done, walk: Callable[..., Road], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(road, "dispatch", lambda *_: seen.append(capsys.readouterr().out))
    walk("steps: {encoder: {do: pretrain simclr}}")
    assert seen == [""]
    assert capsys.readouterr().out.split()[:3] == ["encoder", "pretrain", "simclr"]


def test_a_mistake_of_a_late_step_is_told_before_anything_is_done(done: Done, tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(ROAD.replace("after: audit", "after: audit, cuont: true"))
    with pytest.raises(InputErrors, match="released: generate release: unknown option 'cuont'"):
        travel(path, tmp_path / "out")
    assert not done
    assert not (tmp_path / "out").exists()


def test_a_road_that_was_killed_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(TRAINED.split("  drawn")[0].replace("rounds.count: 1", "rounds.count: 8"))
    words = [sys.executable, "-m", "fedcore.cli.main", "run", str(path), "--out", str(tmp_path / "killed")]
    root = Path(road.__file__).parents[1]
    process = subprocess.Popen(words, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "killed").glob("*/rounds.jsonl")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for name in ("killed", "whole"):
        assert travel(path, tmp_path / name) == 0
    killed, whole = (RunFolder(next((tmp_path / name).glob("encoder-*"))) for name in ("killed", "whole"))
    ended = "encoder/encoder.safetensors"
    assert (killed.path / ended).read_bytes() == (whole.path / ended).read_bytes()
    assert len(killed.rounds()) == 8


def test_the_verdicts_of_a_set_stand_at_its_folder(tmp_path: Path) -> None:
    assert road._verdicts(tmp_path) == ""
    for at in range(4):
        (tmp_path / f"{at}.png").write_bytes(b"a picture")
    rows = [f"{at}.png,synthetic,train,{'lz'[at % 2]}" for at in range(4)]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,site,split,label", *rows]))
    write_audit(tmp_path / "manifest.csv", missing_classes=["ring"])
    assert road._verdicts(tmp_path) == "\n  privacy check: passed\n  fit for use: no; no image is of class ring"
    (tmp_path / "audit.json").write_text("{}")
    assert "is no whole record of an audit" in road._verdicts(tmp_path)


def test_words_come_in_pairs(tmp_path: Path) -> None:
    (tmp_path / "road.yaml").write_text(ROAD)
    with pytest.raises(InputError, match="pairs of --KEY VALUE"):
        command([str(tmp_path / "road.yaml"), "--data.size"])
