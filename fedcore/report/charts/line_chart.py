"""The geometry of the charts: numbers in, positions in an SVG of 420 x 220 units out.

The SVG is drawn by `charts.html.j2` in the page's own CSS colours: that is how one chart fits light and
dark, screen and paper, which a plotting library cannot know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.report.units import size_unit

LEFT, RIGHT, TOP, BOTTOM = 50.0, 408.0, 12.0, 188.0
_POINTS = 12_000  # over all lines of a chart: 50 sites x 1000 rounds stay a small page
_DOTS = 300  # beyond them a curve is a line without dots
_BARS = 48


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float | int) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


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


@dataclass(frozen=True)
class Block:
    kind: str
    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class StackChart:
    title: str
    caption: str
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    blocks: tuple[Block, ...]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) that span [low, high]: the first is at or
    below `low`, the last at or above `high`."""
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):  # one value, but for rounding
        span = abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if span / step <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, max(last, first + 1) + 1)]


def line_chart(
    title: str,
    caption: str,
    series: Mapping[str, Sequence[tuple[int, float]]],
    *,
    crosses: Mapping[str, Sequence[tuple[int, str]]] | None = None,
    reference: tuple[float, str] | None = None,
    zero: bool = False,
) -> LineChart:
    """A curve per site over the rounds: `series` is site -> (round, value).

    `crosses`, site -> (round, why), mark at the foot the rounds that refused a site; `reference` is a level
    with its name; `zero` has the axis start at 0, for what is small only beside nothing.
    """
    crosses = crosses or {}
    values = [value for points in series.values() for _, value in points]
    values += [reference[0]] if reference else []
    values += [0.0] if zero else []
    rounds = [at for points in (*series.values(), *crosses.values()) for at, _ in points]
    marks = ticks(min(values), max(values))
    beside = 1.0 if min(rounds) == max(rounds) else 0.0  # a lone round stands in the middle
    caption += " One round so far." if beside else ""
    x = Scale(min(rounds) - beside, max(rounds) + beside, LEFT + 6, RIGHT - 6)
    y = Scale(marks[0], marks[-1], BOTTOM, TOP)
    dotted = sum(len(points) for points in series.values()) <= _DOTS
    lines = []
    for site in dict.fromkeys((*series, *crosses)):
        kept = _thin(series.get(site, ()), most=max(2, _POINTS // len(series)))
        dots = tuple(Dot(x(at), y(value), f"{site}, round {at}: {value:.4g}") for at, value in kept)
        refused = tuple(Dot(x(at), BOTTOM, f"{site}, round {at}: {why}") for at, why in crosses.get(site, ()))
        path = "M" + " ".join(f"{dot.x:g},{dot.y:g}" for dot in dots) if dots else ""
        lines.append(Line(site, path, dots if dotted else (), refused))
    level = Tick(y(reference[0]), reference[1]) if reference else None
    yticks = tuple(Tick(y(mark), f"{mark:.4g}") for mark in marks)
    return LineChart(title, caption, _round_ticks(rounds, x), yticks, tuple(lines), level)


def stack_chart(title: str, caption: str, rounds: Sequence[tuple[int, Mapping[str, int]]], *, top: float) -> StackChart:
    """A bar per round, stacked by kind, of (round, kind -> bytes); `top` bytes is the height charts share.

    Above 48 rounds a bar is the mean of several neighbours.
    """
    unit, name = size_unit(top)
    marks = ticks(0.0, top / unit)
    y = Scale(0.0, marks[-1] * unit, BOTTOM, TOP)
    groups = _grouped(rounds)
    pitch = (RIGHT - LEFT) / max(len(groups), 8)
    blocks = []
    for column, group in enumerate(groups):
        below = 0.0
        first, last = group[0][0], group[-1][0]
        when = f"round {first}" if first == last else f"rounds {first} to {last}, mean"
        for kind in dict.fromkeys(kind for _, sizes in group for kind in sizes):
            mean = sum(sizes.get(kind, 0) for _, sizes in group) / len(group)
            left, height = LEFT + pitch * (column + 0.12), round(y(below) - y(below + mean), 1)
            label = f"{when}: {kind} {mean / unit:.3g} {name}"
            blocks.append(Block(kind, round(left, 1), y(below + mean), round(0.76 * pitch, 1), height, label))
            below += mean
    step = math.ceil(len(groups) / 6)
    xticks = [Tick(round(LEFT + pitch * (at + 0.5), 1), str(groups[at][0][0])) for at in range(0, len(groups), step)]
    yticks = [Tick(y(mark * unit), f"{mark:.4g}" if mark else f"0 {name}") for mark in marks]
    return StackChart(title, caption, tuple(xticks), tuple(yticks), tuple(blocks))


def _thin(points: Sequence[tuple[int, float]], *, most: int) -> list[tuple[int, float]]:
    """Every n-th point and always the last one."""
    step = max(1, math.ceil(len(points) / most))
    return list(points) if step == 1 else [*points[:-1:step], points[-1]]


def _grouped(
    rounds: Sequence[tuple[int, Mapping[str, int]]],
) -> list[Sequence[tuple[int, Mapping[str, int]]]]:
    step = math.ceil(len(rounds) / _BARS)
    return [rounds[at : at + step] for at in range(0, len(rounds), step)]


def _round_ticks(rounds: Sequence[int], x: Scale) -> tuple[Tick, ...]:
    first, last = float(min(rounds)), float(max(rounds))
    marks = sorted({int(mark) for mark in ticks(first, last, count=6) if mark == int(mark)})
    return tuple(Tick(x(mark), str(mark)) for mark in marks if first <= mark <= last)
