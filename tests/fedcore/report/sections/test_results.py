"""Final scores: of a fine-tuned run its intervals, else the last survey of each site."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Estimate
from fedcore.report.sections.results import POOLED, bars, final

MakeRun = Callable[..., Path]


def test_scores_come_first_and_end_with_the_pool(full_run: Path) -> None:
    table = final(read_run(full_run))
    assert table is not None
    assert table.columns == ("AUROC", "Balanced accuracy", "F1")
    assert [row[0] for row in table.rows] == [*(f"hospital_{n}" for n in range(1, 5)), POOLED]
    assert table.rows[0][2] == 100


def test_a_site_without_a_score_says_why(full_run: Path) -> None:
    scores = json.loads((full_run / "scores.json").read_text())
    nothing = {"value": None, "low": None, "high": None}
    scores["sites"]["hospital_2"] = {"auroc": nothing, "images": 0, "note": "fewer than 10 test patients; no score"}
    (full_run / "scores.json").write_text(json.dumps(scores))
    table = final(read_run(full_run))
    assert table is not None
    assert table.rows[1] == ("hospital_2", (None, None, None), 0)
    assert table.note.endswith("hospital_2: fewer than 10 test patients; no score.")


def test_without_scores_the_last_survey_of_each_site_stands(make_run: MakeRun) -> None:
    folder = make_run()
    lines = [
        {"round": 0, "survey": {"hospital_1": {"knn": 0.5, "images": 9.0}, "hospital_2": {"knn": 0.4}}},
        {"round": 1, "survey": {"hospital_1": {"knn": 0.6, "linear": 0.7, "images": 9.0}}},
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = final(read_run(folder))
    assert table is not None
    assert table.columns == ("kNN", "Linear probe")
    assert table.rows == (
        ("hospital_1", (Estimate(0.6, None, None), Estimate(0.7, None, None)), 9),
        ("hospital_2", (Estimate(0.4, None, None), None), None),
    )


def test_neither_scores_nor_survey(make_run: MakeRun) -> None:
    run = read_run(make_run(rounds=2))
    assert final(run) is None
    assert bars(run) == {}


def test_distances_and_masks_say_what_they_were_measured_in(full_run: Path) -> None:
    scores = json.loads((full_run / "scores.json").read_text())
    scores["pooled"]["hd95"] = {"value": 2.5, "low": 2, "high": 3}
    for grid, said in (("files", "on the grid of the files."), ("32 x 32", "on the grid of 32 x 32 pixels.")):
        (full_run / "scores.json").write_text(json.dumps(scores | {"grid": grid, "distance_unit": "mm"}))
        table = final(read_run(full_run))
        assert table is not None
        assert table.columns[-1] == "HD95 (mm)"
        assert table.note.endswith(said)
    assert "HD95" not in "".join(bars(read_run(full_run)))


def test_bars_stay_on_their_track(full_run: Path) -> None:
    scores = json.loads((full_run / "scores.json").read_text())
    scores["pooled"]["auroc"] = {"value": 1.7, "low": -3, "high": 2}
    (full_run / "scores.json").write_text(json.dumps(scores))
    assert bars(read_run(full_run))["AUROC"][-1].at == {"value": 100.0, "low": 0.0, "high": 100.0}
