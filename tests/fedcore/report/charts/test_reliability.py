"""The reliability diagram and the scores by finding, from scores.json to the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcore.report import write_report
from fedcore.report.charts.axes import BOTTOM, TOP
from fedcore.report.charts.reliability import reliability_chart
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import ReliabilityBin
from fedcore.report.sections.results import POOLED, finding_table, score_bars, score_table

BINS = [{"count": 3, "confidence": 0.5, "accuracy": 0.25}, {"count": 1000, "confidence": 1.0, "accuracy": 1.0}]


@pytest.fixture
def scored(full_run: Path) -> Callable[..., Path]:
    """`scored(calibration=...)`: the run with more scores of hospital_1 and of all sites."""

    def make(**more: Any) -> Path:
        path = full_run / "scores.json"
        found = json.loads(path.read_text())
        for row in (found["sites"]["hospital_1"], found["pooled"]):
            row |= more
        path.write_text(json.dumps(found))
        return full_run

    return make


def test_there_is_one_line_per_site_and_one_for_all_on_axes_from_0_to_1(scored: Callable[..., Path]) -> None:
    run = read_run(scored(calibration=BINS))
    assert run.scores is not None
    assert run.scores.sites["hospital_1"].calibration == (ReliabilityBin(3, 0.5, 0.25), ReliabilityBin(1000, 1.0, 1.0))
    chart = reliability_chart(run)
    assert chart is not None
    assert [series.name for series in chart.series] == ["hospital_1", POOLED]
    low, high = chart.series[0].marks
    assert low.y == pytest.approx(BOTTOM - (BOTTOM - TOP) / 4)
    assert high.y == TOP
    assert chart.diagonal.endswith(f"{high.x:g},{high.y:g}")  # confidence and accuracy 1
    assert high.label == "hospital_1: 1,000 predictions, confidence 100%, 100% correct"


def test_the_page_shows_the_diagram_and_the_table_the_error(scored: Callable[..., Path]) -> None:
    folder = scored(calibration=BINS, ece={"value": 0.125, "low": 0.1, "high": 0.2})
    assert "Calibration error" not in score_bars(read_run(folder))
    table = score_table(read_run(folder))
    assert table is not None
    assert "Calibration error" in table.columns
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<b>Reliability</b>" in text
    assert re.search(r'<path class="reference" d="M[\d.]+,188 [\d.]+,12"/>', text)
    assert "0.125" in text


def test_findings_are_rows_and_sites_columns(scored: Callable[..., Path]) -> None:
    findings = {"Mass": {"auroc": {"value": 0.75, "low": 0.7, "high": 0.8}}, "Edema": {"auroc": {"value": None}}}
    folder = scored(findings=findings)
    table = finding_table(read_run(folder))
    assert table is not None
    assert table.columns == (*(f"hospital_{n}" for n in range(1, 5)), POOLED)
    assert [(name, [s and s.value for s in row]) for name, row, _ in table.rows] == [
        ("Mass", [0.75, None, None, None, 0.75])
    ]
    assert "AUROC by finding" in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("damaged", [None, "x", [None, 3], [{"count": 3}], {"count": 3}])
def test_damaged_bins_count_as_absent(scored: Callable[..., Path], damaged: Any) -> None:
    folder = scored(calibration=damaged, findings=damaged)
    assert reliability_chart(read_run(folder)) is None
    assert finding_table(read_run(folder)) is None
    write_report(folder)


def test_a_run_without_bins_has_no_diagram(full_run: Path) -> None:
    text = write_report(full_run).read_text(encoding="utf-8")
    assert "Reliability" not in text
    assert "test images" in text


def test_scores_of_patients_say_so(full_run: Path) -> None:
    path = full_run / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"per_patient": True}))
    assert "test patients" in write_report(full_run).read_text(encoding="utf-8")
