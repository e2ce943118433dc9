"""Two histograms back to back: closeness of held-out and of synthetic images to the training images.

Numbers in, positions in an SVG of 420 x 122 units out, as in `axes.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fedcore.report.charts.axes import LEFT, RIGHT, LinearScale, Tick

_BINS = 48
_LEAST = 0.01  # of closeness; an exact copy, which has 0, is shown there
_MARKS = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
_APART = 26.0
_MIDDLE, _REACH = 56.0, 44.0
_SEEN = 4.0  # the least height of a bin that is not empty: one copy among thousands must be visible


@dataclass(frozen=True)
class HistogramBar:
    """Bars of held-out images rise from the middle, bars of synthetic ones hang from it; `copy`: below the limit."""

    held_out: bool
    copy: bool
    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class ClosenessHistogram:
    bars: tuple[HistogramBar, ...]
    ticks: tuple[Tick, ...]
    limit: Tick
    middle: float = _MIDDLE


def closeness_histogram(
    held_out: Float[np.ndarray, " h"], synthetic: Float[np.ndarray, " n"], limit: float
) -> ClosenessHistogram:
    """On a log scale; bars are fractions of the held-out and of the synthetic images, on one scale.

    Raises:
        ValueError: A part is empty or not finite.
    """
    if not (len(held_out) and len(synthetic) and np.isfinite([*held_out, *synthetic, limit]).all()):
        raise ValueError("closeness values are missing or not finite")
    low = max(_LEAST, 0.8 * min(float(held_out.min()), float(synthetic.min()), limit))
    at = LinearScale(math.log10(low), 0.0, LEFT, RIGHT)
    edges = np.logspace(math.log10(low), 0.0, _BINS + 1)
    counts = [np.histogram(part.astype(np.float64).clip(low, 1.0), edges)[0] for part in (held_out, synthetic)]
    most = max(float(count.max() / count.sum()) for count in counts)
    bars = [
        bar for count, up in zip(counts, (True, False), strict=True) for bar in _bars(count, up, edges, most, limit)
    ]
    return ClosenessHistogram(tuple(bars), _ticks(low, at), Tick(at(math.log10(max(limit, low))), f"{limit:.2g}"))


def _bars(
    count: Int[np.ndarray, "b"], held_out: bool, edges: np.ndarray, most: float, limit: float
) -> list[HistogramBar]:
    wide = (RIGHT - LEFT) / _BINS
    made = []
    for at, images in enumerate(count):
        if images:
            tall = round(max(_SEEN, _REACH * float(images / count.sum()) / most), 1)
            of = "held-out" if held_out else "synthetic"
            label = f"{images} {of} images of closeness {edges[at]:.2g} to {edges[at + 1]:.2g}"
            top = round(_MIDDLE - tall, 1) if held_out else _MIDDLE
            copy = not held_out and bool(edges[at + 1] <= limit)
            made.append(
                HistogramBar(held_out, copy, round(LEFT + wide * at + 0.5, 1), top, round(wide - 1, 1), tall, label)
            )
    return made


def _ticks(low: float, at: LinearScale) -> tuple[Tick, ...]:
    """From the right, as many as fit."""
    shown: list[Tick] = []
    for mark in _MARKS:
        tick = Tick(at(math.log10(mark)), f"{mark:g}")
        if mark >= low and (not shown or shown[-1].at - tick.at >= _APART):
            shown.append(tick)
    return tuple(shown)
