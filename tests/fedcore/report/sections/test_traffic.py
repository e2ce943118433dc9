"""Bytes by site and round, against sums in loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fedcore.report.read.reader import read_run
from fedcore.report.sections.traffic import kinds, per_visit, site_traffic, traffic_charts

MakeRun = Callable[..., Path]


def write_rounds(folder: Path, *lines: dict[str, object]) -> Path:
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_table_equals_a_loop_over_the_file(full_run: Path) -> None:
    totals: dict[tuple[str, str, str], int] = {}
    for line in (full_run / "rounds.jsonl").read_text().splitlines():
        for site, visit in json.loads(line)["sites"].items():
            for direction in ("up", "down"):
                for kind, size in visit[direction].items():
                    totals[site, direction, kind] = totals.get((site, direction, kind), 0) + size
    for one in site_traffic(read_run(full_run)):
        for direction, sizes in (("up", one.up), ("down", one.down)):
            assert {kind: size for kind, size in sizes.items() if size} == {
                kind: total for (site, to, kind), total in totals.items() if (site, to) == (one.site, direction)
            }


def test_the_mean_of_a_visit_leaves_failed_visits_out(full_run: Path) -> None:
    run = read_run(full_run)
    assert per_visit(run, lambda visit: visit.up) == 1_500_016
    assert per_visit(run, lambda visit: visit.down) == 2_100_000


def test_an_unknown_kind_comes_after_the_known_ones(make_run: MakeRun) -> None:
    visit = {"up": {"keys": 500, "metrics": 250, "weights": 250}, "down": {}}
    run = read_run(write_rounds(make_run(), {"round": 0, "sites": {"hospital_1": visit}}))
    assert kinds(run) == ("weights", "metrics", "keys")
    up, down = traffic_charts(run)
    assert [block.kind for block in up.blocks] == ["weights", "metrics", "keys"]
    assert up.yticks == down.yticks
    assert all(block.height == 0 for block in down.blocks)
