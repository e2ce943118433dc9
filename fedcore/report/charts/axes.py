"""Axes of the charts: numbers in, positions in an SVG of 420 x 220 units out.

`templates/charts.html.j2` draws the SVG in the CSS colours of the page, so that one chart fits light and dark mode,
screen and paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEFT, RIGHT, TOP, BOTTOM = 50.0, 408.0, 12.0, 188.0


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class LinearScale:
    """Maps [low, high] to [start, end] linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float | int) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) that span [low, high].

    The first is at or below `low`, the last at or above `high`.
    """
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):  # one value, apart from rounding
        span = abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if span / step <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, max(last, first + 1) + 1)]


def round_ticks(rounds: Sequence[int], x: LinearScale) -> tuple[Tick, ...]:
    """Whole numbers within the rounds."""
    first, last = float(min(rounds)), float(max(rounds))
    marks = sorted({int(mark) for mark in ticks(first, last, count=6) if mark == int(mark)})
    return tuple(Tick(x(mark), str(mark)) for mark in marks if first <= mark <= last)
