"""A chart with one curve per site over the rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.report.charts.axes import BOTTOM, LEFT, RIGHT, TOP, LinearScale, Tick, round_ticks, ticks

_POINTS = 12_000  # over all lines of a chart: 50 sites x 1000 rounds stay a small page
_DOTS = 300  # beyond them a curve is a line without dots


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """A site's curve; `dots` are empty where there are too many to tell apart."""

    site: str
    path: str
    dots: tuple[Dot, ...]
    crosses: tuple[Dot, ...]


@dataclass(frozen=True)
class LineChart:
    title: str
    caption: str
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    reference: Tick | None


def line_chart(
    title: str,
    caption: str,
    series: Mapping[str, Sequence[tuple[int, float]]],
    *,
    crosses: Mapping[str, Sequence[tuple[int, str]]] | None = None,
    reference: tuple[float, str] | None = None,
    zero: bool = False,
) -> LineChart:
    """A curve per site over the rounds.

    Args:
        title: Heading.
        caption: How to read it.
        series: Site -> (round, value).
        crosses: Site -> (round, reason) of failed visits, marked at the bottom.
        reference: A level with its label, drawn across the chart.
        zero: The y axis starts at 0.
    """
    crosses = crosses or {}
    values = [value for points in series.values() for _, value in points]
    values += [reference[0]] if reference else []
    values += [0.0] if zero else []
    rounds = [at for points in (*series.values(), *crosses.values()) for at, _ in points]
    marks = ticks(min(values), max(values))
    margin = 1.0 if min(rounds) == max(rounds) else 0.0  # a lone round stands in the middle
    caption += " One round so far." if margin else ""
    x = LinearScale(min(rounds) - margin, max(rounds) + margin, LEFT + 6, RIGHT - 6)
    y = LinearScale(marks[0], marks[-1], BOTTOM, TOP)
    dotted = sum(len(points) for points in series.values()) <= _DOTS
    lines = []
    for site in dict.fromkeys((*series, *crosses)):
        shown = _thin(series.get(site, ()), most=max(2, _POINTS // len(series)))
        dots = tuple(Dot(x(at), y(value), f"{site}, round {at}: {value:.4g}") for at, value in shown)
        failed = tuple(Dot(x(at), BOTTOM, f"{site}, round {at}: {why}") for at, why in crosses.get(site, ()))
        path = "M" + " ".join(f"{dot.x:g},{dot.y:g}" for dot in dots) if dots else ""
        lines.append(Line(site, path, dots if dotted else (), failed))
    level = Tick(y(reference[0]), reference[1]) if reference else None
    yticks = tuple(Tick(y(mark), f"{mark:.4g}") for mark in marks)
    return LineChart(title, caption, round_ticks(rounds, x), yticks, tuple(lines), level)


def _thin(points: Sequence[tuple[int, float]], *, most: int) -> list[tuple[int, float]]:
    """Every n-th point, and always the last one."""
    step = max(1, math.ceil(len(points) / most))
    return list(points) if step == 1 else [*points[:-1:step], points[-1]]
