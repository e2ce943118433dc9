"""How near drawn images come to trained ones, beside how near held-out images do: two histograms back to back.

The geometry is that of `figures.py`: numbers in, positions in an SVG of 420 x 132 units out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fedcore.report.charts.charts import LEFT, RIGHT, Scale, Tick

_BINS = 48
_LEAST = 0.01  # of closeness; a copy to the bit, which has 0, stands there
_MARKS = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
_APART = 26.0
_MIDDLE, _REACH = 56.0, 44.0
_SEEN = 4.0  # the least height of what is not empty: one copy among thousands is to be seen


@dataclass(frozen=True)
class Bar:
    """`held` rises from the middle, the drawn images' hang from it; `copy` if below the limit."""

    held: bool
    copy: bool
    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Closeness:
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    limit: Tick
    middle: float = _MIDDLE


def closeness_chart(held: Float[np.ndarray, "h"], drawn: Float[np.ndarray, "n"], limit: float) -> Closeness:
    """On a log scale, on which limits are set; both parts are shares of their images, on one scale.

    Raises:
        ValueError: A part is empty or not finite.
    """
    if not (len(held) and len(drawn) and np.isfinite([*held, *drawn, limit]).all()):
        raise ValueError("closenesses are missing or not finite")
    low = max(_LEAST, 0.8 * min(float(held.min()), float(drawn.min()), limit))
    at = Scale(math.log10(low), 0.0, LEFT, RIGHT)
    edges = np.logspace(math.log10(low), 0.0, _BINS + 1)
    counts = [np.histogram(part.astype(np.float64).clip(low, 1.0), edges)[0] for part in (held, drawn)]
    most = max(float(count.max() / count.sum()) for count in counts)
    bars = [
        bar for count, up in zip(counts, (True, False), strict=True) for bar in _bars(count, up, edges, most, limit)
    ]
    return Closeness(tuple(bars), _ticks(low, at), Tick(at(math.log10(max(limit, low))), f"{limit:.2g}"))


def _bars(count: Int[np.ndarray, "b"], held: bool, edges: np.ndarray, most: float, limit: float) -> list[Bar]:
    wide = (RIGHT - LEFT) / _BINS
    made = []
    for at, images in enumerate(count):
        if images:
            tall = round(max(_SEEN, _REACH * float(images / count.sum()) / most), 1)
            label = (
                f"{images} {'held-out' if held else 'drawn'} images of closeness {edges[at]:.2g} to {edges[at + 1]:.2g}"
            )
            top = round(_MIDDLE - tall, 1) if held else _MIDDLE
            copy = not held and bool(edges[at + 1] <= limit)
            made.append(Bar(held, copy, round(LEFT + wide * at + 0.5, 1), top, round(wide - 1, 1), tall, label))
    return made


def _ticks(low: float, at: Scale) -> tuple[Tick, ...]:
    """From the right, as many as have room."""
    shown: list[Tick] = []
    for mark in _MARKS:
        tick = Tick(at(math.log10(mark)), f"{mark:g}")
        if mark >= low and (not shown or shown[-1].at - tick.at >= _APART):
            shown.append(tick)
    return tuple(shown)
