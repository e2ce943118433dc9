"""Curves: positions are linear in the values, and the number of points is bounded."""

from __future__ import annotations

import pytest

from fedcore.report.charts.axes import BOTTOM, LEFT, RIGHT, TOP
from fedcore.report.charts.line_chart import line_chart


def test_a_line_rises_with_its_values_and_stays_in_the_frame() -> None:
    chart = line_chart("loss", "", {"a": [(0, 1.0), (1, 3.0), (2, 2.0)]}, crosses={"a": [(1, "NaN")]})
    (line,) = chart.lines
    heights = [dot.y for dot in line.dots]
    assert heights[1] < heights[2] < heights[0]
    assert heights[2] == pytest.approx((heights[0] + heights[1]) / 2, abs=0.1)
    assert all(LEFT <= dot.x <= RIGHT and TOP <= dot.y <= BOTTOM for dot in line.dots)
    assert line.crosses[0].x == line.dots[1].x
    assert line.crosses[0].y == BOTTOM
    assert "NaN" in line.crosses[0].label


def test_a_constant_curve_with_rounding_noise_has_an_axis() -> None:
    chart = line_chart("loss", "", {"a": [(0, 1.0), (1, 1.0 + 2e-16)]})
    assert len({tick.label for tick in chart.yticks}) == len(chart.yticks) >= 2


def test_an_axis_starts_at_zero_only_on_demand() -> None:
    series = {"a": [(0, 90.0), (1, 91.0)]}
    assert line_chart("rank", "", series, zero=True).yticks[0].label == "0"
    assert line_chart("loss", "", series).yticks[0].label == "90"


def test_one_round_stands_in_the_middle() -> None:
    (line,) = line_chart("knn", "", {"a": [(7, 0.5)]}).lines
    assert line.dots[0].x == (LEFT + RIGHT) / 2


def test_the_reference_is_inside_the_chart_even_far_from_the_values() -> None:
    chart = line_chart("spread", "", {"a": [(0, 0.01), (1, 0.02)]}, reference=(0.5, "even"))
    assert chart.reference is not None
    assert TOP <= chart.reference.at < min(dot.y for dot in chart.lines[0].dots)


def test_many_points_are_thinned_and_keep_both_ends() -> None:
    series = {f"site_{n}": [(at, float(at)) for at in range(5000)] for n in range(50)}
    chart = line_chart("loss", "", series)
    assert sum(line.path.count(",") for line in chart.lines) < 25_000
    assert chart.lines[0].path.startswith(f"M{LEFT + 6:g},")
    assert chart.lines[0].path.split()[-1].startswith(f"{RIGHT - 6:g},")
