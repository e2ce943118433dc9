"""Charts as geometry: ticks span the data, positions are linear, size stays bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.report.charts.charts import BOTTOM, LEFT, RIGHT, TOP, line_chart, stack_chart, ticks

reals = st.floats(-1e9, 1e9).map(lambda value: round(value, 4))


@given(reals, reals)
def test_ticks_span_the_values_in_even_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    marks = ticks(low, high)
    steps = [after - before for before, after in pairwise(marks)]
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert max(steps) - min(steps) <= slack
    assert 2 <= len(marks) <= 6


def test_golden_ticks() -> None:
    assert ticks(0.0, 8.4) == [0, 5, 10]
    assert ticks(2.3, 5.6) == [2, 3, 4, 5, 6]
    assert ticks(3.0, 3.0) == [3.0, 4.0]


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


def test_bars_stack_without_gaps_in_proportion() -> None:
    chart = stack_chart("up", "", [(0, {"weights": 3000, "exchange": 1000})], top=4000.0)
    weights, exchange = chart.blocks
    assert weights.height == pytest.approx(3 * exchange.height, rel=0.01)
    assert weights.y + weights.height == pytest.approx(BOTTOM)
    assert exchange.y + exchange.height == pytest.approx(weights.y, abs=0.11)


def test_many_rounds_share_bars_that_show_their_mean() -> None:
    chart = stack_chart("up", "", [(at, {"weights": 100 * (at % 2)}) for at in range(960)], top=100.0)
    assert len(chart.blocks) == 48
    assert {block.height for block in chart.blocks} == {(BOTTOM - TOP) / 2}
    assert chart.blocks[0].label == "rounds 0 to 19, mean: weights 50 B"
