from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Run
from fedcore.report.score_tables import print_scores

MakeTuned = Callable[..., Run]


@pytest.fixture
def tuned(tmp_path: Path) -> MakeTuned:
    """`tuned(fraction, measure=(value, low, high))`: a run with such pooled scores."""

    def make(fraction: float, **pooled: tuple[float, float | None, float | None]) -> Run:
        folder = tmp_path / f"run_{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        scores = {name: dict(zip(("value", "low", "high"), score, strict=True)) for name, score in pooled.items()}
        (folder / "scores.json").write_text(json.dumps({"label_fraction": fraction, "pooled": scores}))
        return read_run(folder)

    return make


def test_one_row_per_family_and_one_column_per_fraction(tuned: MakeTuned, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        tuned(0.5, auroc=(0.8, 0.75, 0.85)), tuned(0.05, auroc=(0.6, None, None)), tuned(0.5, auroc=(0.9, 0.85, 0.95)),
    ]  # fmt: skip
    print_scores(runs, ["scratch", "scratch", "ours"])
    head, scratch, ours, *_ = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["AUROC,", "by", "labels", "5", "%", "50", "%"]
    assert scratch.split() == ["scratch", "0.60", "0.80", "(.75-.85)"]
    assert ours.split() == ["ours", "-", "0.90", "(.85-.95)"]


def test_four_fractions_fit_a_terminal(
    tuned: MakeTuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    runs = [tuned(fraction, balanced_accuracy=(0.5, 0.4, 0.6)) for fraction in (0.01, 0.05, 0.1, 1.0)]
    print_scores(runs, ["pretrained"] * 4)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["pretrained", *["0.50", "(.40-.60)"] * 4] for line in lines)


def test_several_runs_give_their_mean_with_the_lowest_and_highest(
    tuned: MakeTuned, capsys: pytest.CaptureFixture[str]
) -> None:
    print_scores([tuned(0.1, dice=(value, 0.0, 1.0)) for value in (0.2, 0.3, 0.7)], ["alone"] * 3)
    assert "0.40 (.20-.70)" in capsys.readouterr().out


def test_a_single_fraction_has_one_column_per_measure(tuned: MakeTuned, capsys: pytest.CaptureFixture[str]) -> None:
    one = tuned(0.1, auroc=(0.8, 0.7, 0.9), balanced_accuracy=(0.6, 0.5, 0.7))
    print_scores([one, tuned(0.1, dice=(0.5, 0.4, 0.6))], ["classes", "masks"])
    head, classes, masks, *_ = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["with", "10", "%", "of", "the", "labels", "Balanced", "accuracy", "AUROC", "Dice"]
    assert classes.split() == ["classes", "0.60", "(.50-.70)", "0.80", "(.70-.90)", "-"]
    assert masks.split() == ["masks", "-", "-", "0.50", "(.40-.60)"]


def test_measures_of_several_fractions_have_tables_of_those_that_have_them(
    tuned: MakeTuned, capsys: pytest.CaptureFixture[str]
) -> None:
    print_scores([tuned(0.1, auroc=(0.8, None, None)), tuned(0.2, dice=(0.5, None, None))], ["classes", "masks"])
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert ("classes" in first, "masks" in first) == (True, False)
    assert ("classes" in second, "masks" in second) == (False, True)


def test_runs_without_scores_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"command": "pretrain"}')
    print_scores([read_run(tmp_path)], ["encoder"])
    assert capsys.readouterr().out == ""
