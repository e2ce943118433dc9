"""Curves by round, and the best probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.charts.axes import BOTTOM
from fedcore.report.read.reader import read_run
from fedcore.report.sections.training import best_probe, evaluation_charts, training_charts

MakeRun = Callable[..., Path]


def write_rounds(folder: Path, *lines: dict[str, object]) -> Path:
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_best_probe_is_the_highest_mean_not_the_highest_site(make_run: MakeRun) -> None:
    evaluations = [
        {"a": {"knn": 0.9}, "b": {"knn": 0.1}},
        {"a": {"knn": 0.6}, "b": {"knn": 0.6}},
        {"a": {"loss": 1.0}},
    ]
    lines = [{"round": at, "evaluation": evaluation} for at, evaluation in enumerate(evaluations)]
    assert best_probe(read_run(write_rounds(make_run(), *lines))) == (pytest.approx(0.6), 1)


def test_without_evaluation_there_is_no_best_probe(make_run: MakeRun) -> None:
    assert best_probe(read_run(make_run(rounds=2))) is None


def test_feature_std_has_the_ideal_value_as_reference(make_run: MakeRun) -> None:
    charts = {chart.title: chart for chart in evaluation_charts(read_run(make_run("known")))}
    std = charts["Feature std"]
    assert std.reference is not None
    assert std.reference.at < BOTTOM
    assert [chart.reference for title, chart in charts.items() if chart is not std] == [None, None]


def test_a_site_that_fails_in_every_round_still_shows_its_crosses(make_run: MakeRun) -> None:
    refused = {"hospital_2": "the loss became NaN"}
    good = {"hospital_1": {"metrics": {"loss": 1.0}}}
    lines = [{"round": at, "sites": good, "refused": refused} for at in range(3)]
    (chart,) = training_charts(read_run(write_rounds(make_run(), *lines)))
    crosses = {line.site: len(line.crosses) for line in chart.lines}
    assert crosses["hospital_2"] == 3
    assert crosses["hospital_1"] == 0
