"""Reliability diagram of a classifier: accuracy of predictions by their confidence; both axes run from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.report.charts.axes import BOTTOM, LEFT, RIGHT, TOP, LinearScale, Tick
from fedcore.report.charts.point_chart import Mark, PointChart, Series
from fedcore.report.read.run import ReliabilityBin, Run
from fedcore.report.sections.results import scores_by_site

_CAPTION = (
    "Fraction of correct predictions by confidence. On the dotted line confidence equals accuracy; below it the "
    "classifier is overconfident. Points of few predictions are uncertain."
)
_X, _Y = LinearScale(0.0, 1.0, LEFT + 8, RIGHT - 8), LinearScale(0.0, 1.0, BOTTOM, TOP)
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def reliability_chart(run: Run) -> PointChart | None:
    """One line per site and one for all sites; None without predictions."""
    lines = {owner: score.calibration for owner, score in scores_by_site(run).items() if score.calibration}
    if not lines:
        return None
    return PointChart(
        "Reliability", _CAPTION, "confidence",
        tuple(Tick(_X(at), f"{at:g}") for at in _TICKS), tuple(Tick(_Y(at), f"{at:g}") for at in _TICKS),
        tuple(_series(owner, bins) for owner, bins in lines.items()),
        diagonal=f"M{_X(0.0):g},{_Y(0.0):g} {_X(1.0):g},{_Y(1.0):g}",
    )  # fmt: skip


def _series(owner: str, bins: Sequence[ReliabilityBin]) -> Series:
    marks = tuple(_mark(owner, one) for one in bins)
    stops = " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks)
    return Series(owner, f"M{stops}" if len(marks) > 1 else "", marks)


def _mark(owner: str, one: ReliabilityBin) -> Mark:
    label = f"{owner}: {one.count:,} predictions, confidence {one.confidence:.0%}, {one.accuracy:.0%} correct"
    return Mark(_X(one.confidence), _Y(one.accuracy), None, None, label)
