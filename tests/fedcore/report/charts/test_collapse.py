"""The verdict on collapse against its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.charts.charts import LEFT, RIGHT
from fedcore.report.charts.gauge import BASIS, Health, health
from fedcore.report.read.reader import read_run

MakeRun = Callable[..., Path]


def judged(folder: Path, *surveys: dict[str, dict[str, float]]) -> Health | None:
    lines = [{"round": at, "survey": survey} for at, survey in enumerate(surveys)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return health(read_run(folder))


@pytest.mark.parametrize(
    ("spread", "rank", "word"),
    [
        (0.6, 140.0, "Healthy"),
        (0.3, 10.0, "Healthy"),
        (0.29, 140.0, "Watch"),
        (0.6, 9.9, "Watch"),
        (0.04, 140.0, "Watch"),
        (0.04, 9.9, "Collapsed"),
        (0.6, 1.5, "Collapsed"),
        (0.0, 1.0, "Collapsed"),
    ],
)
def test_the_worse_decides_but_a_high_rank_is_no_collapse(
    make_run: MakeRun, spread: float, rank: float, word: str
) -> None:
    found = judged(make_run(), {"hospital_1": {"feature_std": spread, "effective_rank": rank}})
    assert found is not None
    assert found.word == word


def test_the_worst_site_decides_and_is_named(make_run: MakeRun) -> None:
    good, bad = {"feature_std": 0.6, "effective_rank": 90.0}, {"feature_std": 0.01, "effective_rank": 8.0}
    found = judged(make_run(), {"hospital_1": good, "hospital_2": bad})
    assert found is not None
    assert (found.tone, found.word) == ("bad", "Collapsed")
    assert "lowest spread of 0.01 (hospital_2) and lowest effective rank of 8 (hospital_2)" in found.text


def test_the_last_survey_of_each_site_counts(make_run: MakeRun) -> None:
    found = judged(make_run(), {"hospital_1": {"feature_std": 0.01}}, {"hospital_1": {"feature_std": 0.7}}, {})
    assert found is not None
    assert found.word == "Healthy"


def test_a_site_with_a_handful_of_images_is_not_judged(make_run: MakeRun) -> None:
    few = make_run(sites=("small",))
    about = json.loads((few / "run.json").read_text())
    (few / "run.json").write_text(json.dumps(about | {"sites": {"small": {"train": 19}}}))
    assert judged(few, {"small": {"effective_rank": 1.0}}) is None


def test_no_survey_no_verdict(make_run: MakeRun) -> None:
    assert judged(make_run(), {}, {"hospital_1": {"knn": 0.5}}) is None


def test_dials_hold_their_zones_and_needles(make_run: MakeRun) -> None:
    found = judged(make_run(), {"hospital_1": {"feature_std": 1.3, "effective_rank": 0.2}})
    assert found is not None
    for dial in found.dials:
        assert dial.zones[0].x == LEFT
        assert sum(zone.width for zone in dial.zones) == pytest.approx(RIGHT - LEFT, abs=0.2)
        assert [zone.tone for zone in dial.zones] == ["bad", "open", "good"]
        assert all(LEFT <= needle.x <= RIGHT for needle in dial.needles)


def test_the_limits_are_said_with_their_source() -> None:
    for said in ("0.05", "0.3", "rank of 2", "or 10", "Chen and He 2020", "Roy and Vetterli 2007", "Ours"):
        assert said in BASIS
