"""Points with intervals: positions in order, inside the frame, joined by their means."""

from __future__ import annotations

import pytest

from fedcore.report.charts.axes import BOTTOM, LEFT, RIGHT, TOP
from fedcore.report.charts.point_chart import PointChart, ScorePoint, point_chart
from fedcore.report.units import percent


def point(x: float, y: float, half: float = 0.05) -> ScorePoint:
    return ScorePoint(x, y, y - half, y + half, "")


def by_labels(**series: list[ScorePoint]) -> PointChart:
    return point_chart("scores", "", "fraction of labels", series, log=True, joined=True, tick=percent)


def test_decades_are_equally_far_apart_and_ticked() -> None:
    chart = by_labels(a=[point(0.01, 0.6), point(0.1, 0.7), point(1.0, 0.8)])
    at = [mark.x for mark in chart.series[0].marks]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.2)
    assert [tick.label for tick in chart.xticks] == ["1 %", "10 %", "100 %"]


def test_fractions_too_close_to_tell_share_a_tick() -> None:
    chart = by_labels(a=[point(x, 0.6) for x in (0.01, 0.011, 0.5, 1.0)])
    assert [tick.label for tick in chart.xticks] == ["1 %", "50 %", "100 %"]


def test_whiskers_contain_their_points_and_stay_in_the_frame() -> None:
    chart = by_labels(**{f"s{n}": [point(0.1, 0.5 + n / 20), point(1.0, 0.9)] for n in range(7)})
    for series in chart.series:
        for mark in series.marks:
            assert mark.low is not None
            assert mark.high is not None
            assert TOP <= mark.high < mark.y < mark.low <= BOTTOM
            assert LEFT <= mark.x <= RIGHT
    assert len({series.marks[0].x for series in chart.series}) == 7


def test_seeds_of_one_fraction_are_joined_by_their_mean() -> None:
    (series,) = by_labels(a=[point(0.1, 0.5), point(0.1, 0.7), point(1.0, 0.9)]).series
    low, high, _ = series.marks
    first = series.path.removeprefix("M").split()[0].split(",")
    assert float(first[1]) == pytest.approx((low.y + high.y) / 2, abs=0.2)
    assert series.path.count(",") == 2


def test_one_fraction_has_no_line_and_stands_in_the_middle() -> None:
    (series,) = by_labels(a=[point(0.1, 0.5), point(0.1, 0.6)]).series
    assert series.path == ""
    assert series.marks[0].x == pytest.approx((LEFT + RIGHT) / 2)


def test_an_axis_of_bytes_starts_at_zero_even_where_nothing_was_sent() -> None:
    chart = point_chart(
        "traffic", "", "MB", {"alone": [ScorePoint(0.0, 0.5, None, None, "")], "all": [point(9.5, 0.5)]}
    )
    assert chart.xticks[0].label == "0"
    assert chart.series[0].marks[0].x == chart.xticks[0].at
    assert [series.path for series in chart.series] == ["", ""]
    nothing = point_chart("traffic", "", "MB", {"alone": [ScorePoint(0.0, 0.5, None, None, "")]})
    assert nothing.xticks[0].label == "0"
