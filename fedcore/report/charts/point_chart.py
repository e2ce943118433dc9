"""Charts of points with confidence intervals over any axis: scores by fraction of labels, or by traffic.

Numbers in, positions in an SVG of 420 x 220 units out, as in `axes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedcore.report.charts.axes import BOTTOM, LEFT, RIGHT, TOP, LinearScale, Tick, ticks

_MARGIN = 22.0  # at both ends, for the offsets of several series at one x
_OFFSET = 7.0


@dataclass(frozen=True)
class ScorePoint:
    """A measured value, with the ends of its interval where they are known."""

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Series:
    """`path` joins the means of the points at each x; it is empty where there is one x."""

    name: str
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class PointChart:
    title: str
    caption: str
    xlabel: str
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    diagonal: str = ""
    """Path of a dotted reference line."""


def point_chart(
    title: str, caption: str, xlabel: str, series: Mapping[str, Sequence[ScorePoint]], *,
    log: bool = False, joined: bool = False, tick: Callable[[float], str] = "{:g}".format,
) -> PointChart:  # fmt: skip
    """A chart of `series`, name -> points.

    Args:
        title: Heading.
        caption: How to read it.
        xlabel: Label of the x axis.
        series: Name -> points; at least one point in all.
        log: x is above 0 and drawn on a log scale, with a tick at each value; else the axis starts at 0.
        joined: Lines join the means of each series, and series are shifted against each other at each x.
        tick: Formats an x.
    """
    points = [point for found in series.values() for point in found]
    ends = [end for p in points for end in (p.y, p.low, p.high) if end is not None]
    marks = ticks(min(ends), max(ends))
    y = LinearScale(marks[0], marks[-1], BOTTOM, TOP)
    x, xticks = _log_axis(points, tick) if log else _axis(points, tick)
    made = []
    for at, (name, found) in enumerate(series.items()):
        offset = _OFFSET * (at - (len(series) - 1) / 2) * min(1.0, 5 / len(series)) if joined else 0.0
        marks_of = tuple(_mark(point, round(x(point.x) + offset, 1), y) for point in found)
        made.append(Series(name, _path(found, marks_of, y) if joined else "", marks_of))
    yticks = tuple(Tick(y(mark), f"{mark:.4g}") for mark in marks)
    return PointChart(title, caption, xlabel, xticks, yticks, tuple(made))


def _mark(point: ScorePoint, x: float, y: LinearScale) -> Mark:
    low, high = (None if end is None else y(end) for end in (point.low, point.high))
    return Mark(x, y(point.y), low, high, point.label)


def _path(points: Sequence[ScorePoint], marks: Sequence[Mark], y: LinearScale) -> str:
    values: dict[float, list[float]] = {}
    for point, mark in zip(points, marks, strict=True):
        values.setdefault(mark.x, []).append(point.y)
    stops = [f"{x:g},{y(fmean(found)):g}" for x, found in sorted(values.items())]
    return "M" + " ".join(stops) if len(stops) > 1 else ""


def _axis(
    points: Sequence[ScorePoint], tick: Callable[[float], str]
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    marks = ticks(0.0, max(point.x for point in points), count=5)
    at = LinearScale(0.0, marks[-1], LEFT + 8, RIGHT - 8)
    return at, tuple(Tick(at(mark), tick(mark)) for mark in marks)


def _log_axis(
    points: Sequence[ScorePoint], tick: Callable[[float], str]
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    seen = sorted({point.x for point in points})
    low, high = math.log10(seen[0]), math.log10(seen[-1])
    margin = 1.0 if low == high else 0.0  # a lone fraction stands in the middle
    line = LinearScale(low - margin, high + margin, LEFT + _MARGIN, RIGHT - _MARGIN)
    shown: list[Tick] = []
    for value in seen:
        here = Tick(line(math.log10(value)), tick(value))
        if not shown or here.at - shown[-1].at >= 36:
            shown.append(here)
    return lambda value: line(math.log10(value)), tuple(shown)
