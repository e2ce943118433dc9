"""Key figures and ledger against sums done by hand or by loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.charts.charts import BOTTOM
from fedcore.report.read.digest import (
    best_probe,
    departures,
    disagreements,
    highest_revelation,
    kinds,
    ledger,
    ledger_charts,
    per_visit,
    survey_charts,
    training_charts,
)
from fedcore.report.read.reader import read_run

MakeRun = Callable[..., Path]


def write_rounds(folder: Path, *lines: dict[str, object]) -> Path:
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_best_probe_is_the_highest_mean_not_the_highest_site(make_run: MakeRun) -> None:
    surveys = [
        {"a": {"knn": 0.9}, "b": {"knn": 0.1}},
        {"a": {"knn": 0.6}, "b": {"knn": 0.6}},
        {"a": {"loss": 1.0}},
    ]
    lines = [{"round": at, "survey": survey} for at, survey in enumerate(surveys)]
    assert best_probe(read_run(write_rounds(make_run(), *lines))) == (pytest.approx(0.6), 1)


def test_no_survey_has_no_best_probe(make_run: MakeRun) -> None:
    assert best_probe(read_run(make_run(rounds=2))) is None


def test_the_ledger_equals_a_loop_over_the_file(full_run: Path) -> None:
    totals: dict[tuple[str, str, str], int] = {}
    for line in (full_run / "rounds.jsonl").read_text().splitlines():
        for site, visit in json.loads(line)["sites"].items():
            for way in ("up", "down"):
                for kind, size in visit[way].items():
                    totals[site, way, kind] = totals.get((site, way, kind), 0) + size
    for entry in ledger(read_run(full_run)):
        for way, sizes in (("up", entry.up), ("down", entry.down)):
            assert {kind: size for kind, size in sizes.items() if size} == {
                kind: total for (site, to, kind), total in totals.items() if (site, to) == (entry.site, way)
            }


def test_the_mean_of_a_visit_leaves_refused_visits_out(full_run: Path) -> None:
    run = read_run(full_run)
    assert per_visit(run, lambda visit: visit.up) == 1_500_016
    assert per_visit(run, lambda visit: visit.down) == 2_100_000


def test_an_audit_file_that_lists_more_than_the_record_is_told(make_run: MakeRun) -> None:
    folder = make_run()
    with (folder / "sites" / "hospital_2" / "audit.jsonl").open("a") as file:
        file.write('{"round": 3, "field": "exchange/virtual", "reveals": "SAMPLES", "bytes": 7}\n')
    run = read_run(folder)
    assert highest_revelation(run) == "FEATURES"  # what the server got says it, for every page and card
    assert disagreements(run) == [
        "The audit of hospital_2 lists SAMPLES, the run's own record of that site FEATURES at most."
    ]
    assert [entry.reveals for entry in ledger(run)] == ["FEATURES"] * 4
    assert departures(run)[-1].size == 7
    assert departures(run)[0].count == 4 * 12


def test_an_unknown_kind_is_drawn_after_the_known_ones(make_run: MakeRun) -> None:
    visit = {"up": {"keys": 500, "metrics": 250, "weights": 250}, "down": {}}
    run = read_run(write_rounds(make_run(), {"round": 0, "sites": {"hospital_1": visit}}))
    assert kinds(run) == ("weights", "metrics", "keys")
    up, down = ledger_charts(run)
    assert [block.kind for block in up.blocks] == ["weights", "metrics", "keys"]
    assert up.yticks == down.yticks
    assert all(block.height == 0 for block in down.blocks)


def test_the_gauge_compares_with_evenly_spread_features(make_run: MakeRun) -> None:
    charts = {chart.title: chart for chart in survey_charts(read_run(make_run("known")))}
    gauge = charts["Collapse gauge: spread of the features"]
    assert gauge.reference is not None
    assert gauge.reference.at < BOTTOM
    assert [chart.reference for title, chart in charts.items() if chart is not gauge] == [None, None]


def test_a_site_refused_in_every_round_still_shows_its_crosses(make_run: MakeRun) -> None:
    refused = {"hospital_2": "the loss became NaN"}
    good = {"hospital_1": {"metrics": {"loss": 1.0}}}
    lines = [{"round": at, "sites": good, "refused": refused} for at in range(3)]
    (chart,) = training_charts(read_run(write_rounds(make_run(), *lines)))
    crosses = {line.site: len(line.crosses) for line in chart.lines}
    assert crosses["hospital_2"] == 3
    assert crosses["hospital_1"] == 0
