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
from fedcore.pipelines import run as pipelines
from fedcore.pipelines.run import Pipeline, command, run_pipeline
from fedcore.pipelines.spec import read_steps
from fedcore.runs.folder import RunFolder
from tests.fedcore.audits import write_audit

PIPELINE = """
shared: {data.size: 32, seed: 1}
steps:
  encoder: {do: pretrain simclr, rounds.count: 2}
  synthetic: {do: "generate sample {encoder} {here}", count: 8}
  audit: {do: "generate audit {encoder} {synthetic}"}
  tuned: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.1, 1.0]}}
  released: {do: "generate release {synthetic} {here}", after: audit}
"""
TRAINED = """
shared: {data.phantom: {sites: 2, images_per_site: 40}, data.size: 16, visit.max_epochs: 1, encoder.init_args.stem: 8,
         policy.min_patients: 1}
steps:
  encoder: {do: pretrain simclr, rounds.count: 1, probe: null}
  synthetic: {do: "generate sample checkpoints/none {here}"}
  scratch: {do: finetune classify, rounds.count: 1, each: {label_fraction: [0.5, 1.0]}}
  ours: {do: finetune classify, rounds.count: 1, label_fraction: 0.5, pretrained: "{encoder}",
         each: {seed: {a: 0, b: 1}}}
  with_synthetic: {do: finetune classify, rounds.count: 1, data.synthetic.manifest: "{synthetic}/manifest.csv"}
"""
Dispatched = list[tuple[str, list[str]]]


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> Dispatched:
    """The commands that were dispatched; they do nothing."""
    found: Dispatched = []
    monkeypatch.setattr(pipelines, "dispatch", lambda name, arguments: found.append((name, arguments)) or 0)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Pipeline]:
    """Runs the steps of a text in one folder."""

    def run(text: str, overrides: Mapping[str, str] = {}) -> Pipeline:
        (tmp_path / "pipeline.yaml").write_text(text)
        made = Pipeline(tmp_path / "out")
        made.run(read_steps(tmp_path / "pipeline.yaml", overrides))
        return made

    return run


def test_steps_are_commands_with_the_folders_of_earlier_steps(
    dispatched: Dispatched, run: Callable[..., Pipeline]
) -> None:
    assert not run(PIPELINE, {"data.size": "48"}).failed
    names = [name for name, _ in dispatched]
    assert names == ["pretrain", "generate", "generate", "finetune", "finetune", "generate"]
    encoder = dispatched[0][1][dispatched[0][1].index("--out") + 1]
    assert dispatched[0][1] == ["simclr", "--data.size", "48", "--seed", "1", "--rounds.count", "2", "--out", encoder,
                          "--resume", "true"]  # fmt: skip
    synthetic = dispatched[1][1][2]
    assert dispatched[1][1] == ["sample", encoder, synthetic, "--count", "8"]
    assert dispatched[2][1] == ["audit", encoder, synthetic]
    tuned = [words for name, words in dispatched if name == "finetune"]
    assert [words[words.index("--label_fraction") + 1] for words in tuned] == ["0.1", "1.0"]
    assert all(words[words.index("--pretrained") + 1] == encoder for words in tuned)
    assert len({words[words.index("--out") + 1] for words in tuned}) == 2


def test_finished_steps_are_skipped_and_changed_ones_run_in_another_folder(
    dispatched: Dispatched, run: Callable[..., Pipeline], capsys: pytest.CaptureFixture[str]
) -> None:
    run(PIPELINE)
    count = len(dispatched)
    run(PIPELINE)
    assert len(dispatched) == count
    assert capsys.readouterr().out.count("finished before") == 6
    run(PIPELINE.replace("count: 8", "count: 9"))
    assert [name for name, _ in dispatched[count:]] == ["generate"] * 3  # the set, its audit and its release
    assert dispatched[count][1][2] != dispatched[1][1][2]
    again = len(dispatched)
    run(PIPELINE, {"seed": "2"})
    assert len(dispatched) - again == 6  # the encoder, and all steps that need it
    last = len(dispatched)
    run(PIPELINE)
    assert len(dispatched) == last  # all steps of the first run are still finished
    run(PIPELINE, {"workers": "2"})
    assert len(dispatched) == last  # it does not change results


def test_a_changed_image_is_a_changed_input(
    dispatched: Dispatched, run: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPRETRAIN_CACHE", str(tmp_path / "cache"))
    manifest = Phantoms(sites=1, images_per_site=4).write(tmp_path / "pictures", 32)
    (tmp_path / "mine.yaml").write_text(f"data: {{manifest: {manifest}}}\n")
    text = f"steps: {{encoder: {{do: pretrain {tmp_path / 'mine.yaml'}}}}}"
    for expected in (1, 1):
        run(text)
        assert len(dispatched) == expected
    picture = tmp_path / "pictures" / "hospital_1" / "00001.png"
    picture.write_bytes((tmp_path / "pictures" / "hospital_1" / "00002.png").read_bytes())
    run(text)
    assert len(dispatched) == 2


def test_steps_that_need_a_failed_step_are_skipped_and_all_others_run(
    dispatched: Dispatched, run: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def failing(name: str, words: list[str]) -> int:
        dispatched.append((name, words))
        if words[0] == "audit":
            raise InputError("too few images")
        return 0

    monkeypatch.setattr(pipelines, "dispatch", failing)
    assert run(PIPELINE).failed == {"audit": "too few images", "released": "skipped, since it needs audit"}
    assert [words[0] for name, words in dispatched if name == "generate"] == ["sample", "audit"]
    assert sum(name == "finetune" for name, _ in dispatched) == 2
    ended = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert ended["audit"] == "failed"
    assert "released" not in ended
    ledger = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert {about["step"].split("_")[0] for about in ledger.values()} == {"encoder", "synthetic", "tuned"}


def test_the_folder_of_a_stopped_step_is_removed_unless_it_can_resume(
    run: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
steps:
  encoder: {do: pretrain simclr}
  synthetic: {do: "generate sample {encoder} {here}", resume: true}
  released: {do: "generate release {synthetic} {here}"}
"""
    seen: list[list[str]] = []

    def writing(name: str, words: list[str]) -> int:
        place = Path(words[words.index("--out") + 1] if name == "pretrain" else words[2])
        seen.append(sorted(path.name for path in place.iterdir()) if place.exists() else [])
        place.mkdir(parents=True, exist_ok=True)
        (place / ("run.json" if name == "pretrain" else "manifest.csv")).touch()
        if len(seen) in stopped:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(pipelines, "dispatch", writing)
    stopped = {1, 3, 5}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt, match="run the same command to continue"):
            run(text)
    run(text)
    assert seen == [[], ["run.json"], [], ["manifest.csv"], [], []]


def test_a_pipeline_ends_with_scores_one_page_and_failed_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(TRAINED)
    with pytest.raises(InputError) as caught:
        run_pipeline(path, tmp_path / "out")
    assert (
        str(caught.value).splitlines()[0]
        == "2 of 7 steps failed or were skipped; run the same command to try them again"
    )
    assert "  synthetic: " in str(caught.value)
    assert "  with_synthetic: skipped, since it needs synthetic" in str(caught.value)
    out = capsys.readouterr().out
    head, scratch, ours = out[out.index("Balanced accuracy") :].splitlines()[:3]
    assert head.split() == ["Balanced", "accuracy,", "by", "labels", "50", "%", "100", "%"]
    assert (scratch.split()[0], "-" in scratch.split()) == ("scratch", False)
    assert (ours.split()[0], ours.split()[-1]) == ("ours", "-")  # two seeds of one fraction
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"report: {tmp_path / 'out' / 'report.html'}" in out
    assert "Score by label fraction" in page
    assert all(name in page for name in ("ours_a", "scratch_0.5", "scratch</"))
    assert str(tmp_path) not in page
    path.write_text("\n".join(line for line in TRAINED.splitlines() if "synthetic" not in line))
    assert run_pipeline(path, tmp_path / "out") == 0
    assert capsys.readouterr().out.count("finished before") == 5


def test_the_line_of_a_step_is_printed_at_its_end(
    dispatched: Dispatched,
    run: Callable[..., Pipeline],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(pipelines, "dispatch", lambda *_: seen.append(capsys.readouterr().out))
    run("steps: {encoder: {do: pretrain simclr}}")
    assert seen == [""]
    assert capsys.readouterr().out.split()[:3] == ["encoder", "pretrain", "simclr"]


def test_an_error_in_a_late_step_is_reported_before_the_first_step_runs(dispatched: Dispatched, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE.replace("after: audit", "after: audit, cuont: true"))
    with pytest.raises(InputErrors, match="released: generate release: unknown option 'cuont'"):
        run_pipeline(path, tmp_path / "out")
    assert not dispatched
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_pipeline_continues_to_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(TRAINED.split("  synthetic")[0].replace("rounds.count: 1", "rounds.count: 8"))
    words = [sys.executable, "-m", "fedcore.cli.main", "run", str(path), "--out", str(tmp_path / "killed")]
    root = Path(pipelines.__file__).parents[1]
    process = subprocess.Popen(words, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "killed").glob("*/rounds.jsonl")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for name in ("killed", "whole"):
        assert run_pipeline(path, tmp_path / name) == 0
    killed, whole = (RunFolder(next((tmp_path / name).glob("encoder-*"))) for name in ("killed", "whole"))
    ended = "encoder/encoder.safetensors"
    assert (killed.path / ended).read_bytes() == (whole.path / ended).read_bytes()
    assert len(killed.rounds()) == 8


def test_the_audit_of_a_set_is_summarised_next_to_its_folder(tmp_path: Path) -> None:
    assert pipelines._audit_summary(tmp_path) == ""
    for at in range(4):
        (tmp_path / f"{at}.png").write_bytes(b"a picture")
    rows = [f"{at}.png,synthetic,train,{'lz'[at % 2]}" for at in range(4)]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,site,split,label", *rows]))
    write_audit(tmp_path / "manifest.csv", missing_classes=["ring"])
    assert (
        pipelines._audit_summary(tmp_path) == "\n  privacy check: passed\n  fit for use: no; no image is of class ring"
    )
    (tmp_path / "audit.json").write_text("{}")
    assert "is not a complete record of an audit" in pipelines._audit_summary(tmp_path)


def test_options_come_in_pairs(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    with pytest.raises(InputError, match="pairs of --KEY VALUE"):
        command([str(tmp_path / "pipeline.yaml"), "--data.size"])
