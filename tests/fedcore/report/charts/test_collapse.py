"""The collapse check against its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.charts.axes import LEFT, RIGHT
from fedcore.report.charts.collapse import EXPLANATION, CollapseCheck, collapse_check
from fedcore.report.read.reader import read_run

MakeRun = Callable[..., Path]


def checked(folder: Path, *evaluations: dict[str, dict[str, float]]) -> CollapseCheck | None:
    lines = [{"round": at, "evaluation": evaluation} for at, evaluation in enumerate(evaluations)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return collapse_check(read_run(folder))


@pytest.mark.parametrize(
    ("std", "rank", "word"),
    [
        (0.6, 140.0, "No collapse"),
        (0.3, 10.0, "No collapse"),
        (0.29, 140.0, "Watch"),
        (0.6, 9.9, "Watch"),
        (0.04, 140.0, "Watch"),
        (0.04, 9.9, "Collapsed"),
        (0.6, 1.5, "Collapsed"),
        (0.0, 1.0, "Collapsed"),
    ],
)
def test_the_worse_measure_decides_but_a_high_rank_is_no_collapse(
    make_run: MakeRun, std: float, rank: float, word: str
) -> None:
    found = checked(make_run(), {"hospital_1": {"feature_std": std, "effective_rank": rank}})
    assert found is not None
    assert found.word == word


def test_the_worst_site_decides_and_is_named(make_run: MakeRun) -> None:
    good, bad = {"feature_std": 0.6, "effective_rank": 90.0}, {"feature_std": 0.01, "effective_rank": 8.0}
    found = checked(make_run(), {"hospital_1": good, "hospital_2": bad})
    assert found is not None
    assert (found.tone, found.word) == ("bad", "Collapsed")
    assert "lowest feature std 0.01 (hospital_2), lowest effective rank 8 (hospital_2)" in found.text


def test_the_last_evaluation_of_each_site_counts(make_run: MakeRun) -> None:
    found = checked(make_run(), {"hospital_1": {"feature_std": 0.01}}, {"hospital_1": {"feature_std": 0.7}}, {})
    assert found is not None
    assert found.word == "No collapse"


def test_a_site_with_a_handful_of_images_is_not_checked(make_run: MakeRun) -> None:
    few = make_run(sites=("small",))
    about = json.loads((few / "run.json").read_text())
    (few / "run.json").write_text(json.dumps(about | {"sites": {"small": {"train": 19}}}))
    assert checked(few, {"small": {"effective_rank": 1.0}}) is None


def test_without_evaluation_there_is_no_check(make_run: MakeRun) -> None:
    assert checked(make_run(), {}, {"hospital_1": {"knn": 0.5}}) is None


def test_gauges_hold_their_zones_and_marks(make_run: MakeRun) -> None:
    found = checked(make_run(), {"hospital_1": {"feature_std": 1.3, "effective_rank": 0.2}})
    assert found is not None
    for gauge in found.gauges:
        assert gauge.zones[0].x == LEFT
        assert sum(zone.width for zone in gauge.zones) == pytest.approx(RIGHT - LEFT, abs=0.2)
        assert [zone.tone for zone in gauge.zones] == ["bad", "open", "good"]
        assert all(LEFT <= mark.x <= RIGHT for mark in gauge.marks)


def test_the_limits_are_explained_with_their_source() -> None:
    for text in ("0.05", "0.3", "rank below 2", "or 10", "Chen and He 2020", "Roy and Vetterli 2007", "ours"):
        assert text in EXPLANATION
