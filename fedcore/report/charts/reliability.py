"""Whether a classifier's probabilities can be believed: how often its guesses held, by how sure it was.

The geometry is that of `figures.py`; both axes run from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.report.charts.charts import BOTTOM, LEFT, RIGHT, TOP, Scale, Tick
from fedcore.report.charts.points import Mark, Plane, Series
from fedcore.report.read.run import Bin, Run
from fedcore.report.sections.results import scored

_CAPTION = (
    "Of guesses as sure as this, how many held. On the dotted line probabilities can be believed; below it the "
    "classifier is too sure of itself. Points of few guesses say little."
)
_X, _Y = Scale(0.0, 1.0, LEFT + 8, RIGHT - 8), Scale(0.0, 1.0, BOTTOM, TOP)
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def reliability_chart(run: Run) -> Plane | None:
    """A line a site and one for all of them; None where nothing was counted."""
    lines = {owner: score.calibration for owner, score in scored(run).items() if score.calibration}
    if not lines:
        return None
    return Plane(
        "Reliability", _CAPTION, "how sure the classifier was",
        tuple(Tick(_X(at), f"{at:g}") for at in _TICKS), tuple(Tick(_Y(at), f"{at:g}") for at in _TICKS),
        tuple(_series(owner, bins) for owner, bins in lines.items()),
        diagonal=f"M{_X(0.0):g},{_Y(0.0):g} {_X(1.0):g},{_Y(1.0):g}",
    )  # fmt: skip


def _series(owner: str, bins: Sequence[Bin]) -> Series:
    marks = tuple(_mark(owner, one) for one in bins)
    stops = " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks)
    return Series(owner, f"M{stops}" if len(marks) > 1 else "", marks)


def _mark(owner: str, one: Bin) -> Mark:
    label = f"{owner}: of {one.count:,} guesses that were {one.sure:.0%} sure, {one.held:.0%} held"
    return Mark(_X(one.sure), _Y(one.held), None, None, label)
