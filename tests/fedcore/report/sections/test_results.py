"""Final scores: of a fine-tuned run with intervals, else from the last evaluation of each site."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Estimate
from fedcore.report.sections.results import POOLED, score_bars, score_table

MakeRun = Callable[..., Path]


def test_scores_of_sites_come_before_pooled_ones(full_run: Path) -> None:
    table = score_table(read_run(full_run))
    assert table is not None
    assert table.columns == ("AUROC", "Balanced accuracy", "F1")
    assert [row[0] for row in table.rows] == [*(f"hospital_{n}" for n in range(1, 5)), POOLED]
    assert table.rows[0][2] == 100


def test_a_site_without_a_score_has_a_note(full_run: Path) -> None:
    scores = json.loads((full_run / "scores.json").read_text())
    nothing = {"value": None, "low": None, "high": None}
    scores["sites"]["hospital_2"] = {"auroc": nothing, "images": 0, "note": "fewer than 10 test patients; no score"}
    (full_run / "scores.json").write_text(json.dumps(scores))
    table = score_table(read_run(full_run))
    assert table is not None
    assert table.rows[1] == ("hospital_2", (None, None, None), 0)
    assert table.note.endswith("hospital_2: fewer than 10 test patients; no score.")


def test_without_scores_the_last_evaluation_of_each_site_counts(make_run: MakeRun) -> None:
    folder = make_run()
    lines = [
        {"round": 0, "evaluation": {"hospital_1": {"knn": 0.5, "images": 9.0}, "hospital_2": {"knn": 0.4}}},
        {"round": 1, "evaluation": {"hospital_1": {"knn": 0.6, "linear": 0.7, "images": 9.0}}},
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = score_table(read_run(folder))
    assert table is not None
    assert table.columns == ("kNN accuracy", "Linear probe accuracy")
    assert table.rows == (
        ("hospital_1", (Estimate(0.6, None, None), Estimate(0.7, None, None)), 9),
        ("hospital_2", (Estimate(0.4, None, None), None), None),
    )


def test_a_run_without_scores_and_evaluation(make_run: MakeRun) -> None:
    run = read_run(make_run(rounds=2))
    assert score_table(run) is None
    assert score_bars(run) == {}


def test_distances_have_a_unit_and_masks_a_grid(full_run: Path) -> None:
    scores = json.loads((full_run / "scores.json").read_text())
    scores["pooled"]["hd95"] = {"value": 2.5, "low": 2, "high": 3}
    grids = {
        "files": "on the grid of the files.", "32 x 32": "on the grid of 32 x 32 pixels.",
        "8 x 8 x 8": "on the grid of 8 x 8 x 8 voxels.",
    }  # fmt: skip
    for grid, text in grids.items():
        (full_run / "scores.json").write_text(json.dumps(scores | {"grid": grid, "distance_unit": "mm"}))
        table = score_table(read_run(full_run))
        assert table is not None
        assert table.columns[-1] == "HD95 (mm)"
        assert table.note.endswith(text)
    assert "HD95" not in "".join(score_bars(read_run(full_run)))


def test_bars_stay_on_their_track(full_run: Path) -> None:
    scores = json.loads((full_run / "scores.json").read_text())
    scores["pooled"]["auroc"] = {"value": 1.7, "low": -3, "high": 2}
    (full_run / "scores.json").write_text(json.dumps(scores))
    assert score_bars(read_run(full_run))["AUROC"][-1].at == {"value": 100.0, "low": 0.0, "high": 100.0}
