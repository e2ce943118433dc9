"""Bands are proportional to bytes and have their privacy level, from one site to many."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcore.report.charts.traffic_flow import FlowBand, TrafficFlow, level, levels_sent, traffic_flows
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Run

MakeRun = Callable[..., Path]


def run_of(folder: Path, *rounds: dict[str, Any]) -> Run:
    lines = [{"round": at, "sites": sites} for at, sites in enumerate(rounds)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def sent(weights: int = 0, exchange: int = 0, down: int = 0) -> dict[str, Any]:
    return {"up": {"weights": weights, "exchange": exchange}, "down": {"weights": down}, "reveals": "FEATURES"}


def width(band: FlowBand) -> float:
    """Height of the ribbon at its left end: its first and last edge."""
    numbers = [float(found) for found in re.findall(r"-?[\d.]+", band.path)]
    return numbers[-1] - numbers[1]


def bands(flow: TrafficFlow) -> dict[tuple[str, str], FlowBand]:
    return {(site.name, band.kind): band for site in flow.sites for band in site.bands}


def test_widths_are_proportional_on_one_scale_for_both_directions(make_run: MakeRun) -> None:
    run = run_of(make_run(), {"hospital_1": sent(3_000_000, 1_000_000, 8_000_000), "hospital_2": sent(2_000_000)})
    up, down = (bands(flow) for flow in traffic_flows(run))
    unit = width(up["hospital_1", "exchange"])
    assert width(up["hospital_1", "weights"]) == pytest.approx(3 * unit, abs=0.5)
    assert width(up["hospital_2", "weights"]) == pytest.approx(2 * unit, abs=0.5)
    assert width(down["hospital_1", "weights"]) == pytest.approx(8 * unit, abs=0.5)


def test_the_servers_bar_is_the_sum_of_the_bands_and_totals_are_of_an_average_round(make_run: MakeRun) -> None:
    both = {"hospital_1": sent(3_000_000, 1_000_000), "hospital_2": sent(1_000_000)}
    up, _ = traffic_flows(run_of(make_run(), both, {"hospital_1": sent(1_000_000)}))
    assert up.server[1] == pytest.approx(sum(width(band) for band in bands(up).values()), abs=0.3)
    assert up.total == "3 MB"
    assert [(total.kind, total.size) for total in up.totals] == [("weights", "2.5 MB"), ("exchange", "500 kB")]
    assert [(site.name, site.size) for site in up.sites] == [("hospital_1", "2.5 MB"), ("hospital_2", "500 kB")]


def test_small_bands_are_visible(make_run: MakeRun) -> None:
    up, _ = traffic_flows(run_of(make_run(), {"hospital_1": sent(10_000_000_000, 1)}))
    assert width(bands(up)["hospital_1", "exchange"]) >= 1.1


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (12, 12), (13, 12), (50, 12)])
def test_many_sites_are_combined_and_no_bytes_are_lost(make_run: MakeRun, count: int, rows: int) -> None:
    sizes = {f"site_{at}": sent((at + 1) * 1_000_000, down=1) for at in range(count)}
    up, down = traffic_flows(run_of(make_run(sites=tuple(sizes)), sizes))
    assert len(up.sites) == len(down.sites) == rows
    assert [site.y for site in up.sites] == [site.y for site in down.sites]
    assert up.height <= 700
    if count > 12:
        assert up.sites[-1].name == f"{count - 11} others"
        assert [site.name for site in up.sites[:-1]] == [f"site_{at}" for at in range(count - 11, count)]
    assert up.total == ("1 MB" if count == 1 else up.totals[0].size)
    assert sum(width(band) for band in bands(up).values()) == pytest.approx(up.server[1], abs=1.0)


def test_each_kind_of_bytes_has_its_level(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert [level(run, kind) for kind in ("weights", "exchange", "metrics")] == ["WEIGHTS", "FEATURES", "STATISTICS"]
    assert levels_sent(run) == (("WEIGHTS", True), ("STATISTICS", True), ("FEATURES", True), ("SAMPLES", False))


def test_without_metrics_the_number_of_images_is_of_the_lowest_level(make_run: MakeRun) -> None:
    bare = {"up": {"weights": 9, "metrics": 16}, "down": {"weights": 9}, "reveals": "WEIGHTS"}
    assert levels_sent(run_of(make_run(), {"hospital_1": bare}))[:2] == (("WEIGHTS", True), ("STATISTICS", False))


def test_a_buffer_that_reveals_more_raises_the_level_of_the_weights(make_run: MakeRun) -> None:
    folder = make_run()
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"buffers": {"scale.mean": "STATISTICS"}}))
    assert level(read_run(folder), "weights") == "STATISTICS"


def test_an_unknown_level_is_shown_too(make_run: MakeRun) -> None:
    run = run_of(make_run(), {"hospital_1": {"up": {"keys": 5}, "reveals": "GENOMES"}})
    assert levels_sent(run)[-1] == ("GENOMES", True)
    assert bands(traffic_flows(run)[0])["hospital_1", "keys"].reveals == "GENOMES"


def test_a_run_that_sent_nothing_has_no_flow(make_run: MakeRun) -> None:
    assert traffic_flows(run_of(make_run(), {"hospital_1": {"up": {}, "down": {"weights": 0}}})) == ()
    assert traffic_flows(read_run(make_run("none", rounds=0))) == ()
