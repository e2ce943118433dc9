"""Check for collapse: whether the features of every site still differ between images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcore.report.charts.axes import LEFT, RIGHT, LinearScale, Tick
from fedcore.report.read.run import Run

_FEW = 20  # training images; below, both measures depend on the number of images more than on the encoder
_WORDS = {"good": "No collapse", "open": "Watch", "bad": "Collapsed"}
_SEVERITY = ("good", "open", "bad")


@dataclass(frozen=True)
class CollapseMeasure:
    """Below `collapsed` features hardly differ between images; between `collapsed` and `good` they need watching."""

    name: str
    title: str
    collapsed: float
    good: float

    def tone(self, value: float) -> str:
        return "bad" if value < self.collapsed else "open" if value < self.good else "good"


FEATURE_STD = CollapseMeasure("feature_std", "Feature std (0: collapse, 1: ideal)", 0.05, 0.3)
EFFECTIVE_RANK = CollapseMeasure("effective_rank", "Effective rank (1: collapse)", 2.0, 10.0)
EXPLANATION = (
    "Feature std is the mean standard deviation of the normalised features times the square root of their length: "
    "1 is an even distribution, 0 is collapse (Chen and He 2020, arXiv 2011.10566). Effective rank is the exponential "
    "of the entropy of the singular values (Roy and Vetterli 2007): the number of dimensions in use, 1 is collapse. "
    "The papers give no limits; ours are rules of thumb. Collapsed: feature std below "
    f"{FEATURE_STD.collapsed:g} or rank below {EFFECTIVE_RANK.collapsed:g}. Watch: below {FEATURE_STD.good:g} or "
    f"{EFFECTIVE_RANK.good:g}. A rank of {EFFECTIVE_RANK.good:g} or more means no collapse even with a small feature "
    "std: features with a large common part, such as those of a masked autoencoder, still differ between images. "
    "Examples on brain MRI: an untrained ResNet has feature std 0.13 and rank 140, a trained one 0.6 and 140."
)


@dataclass(frozen=True)
class GaugeMark:
    site: str
    x: float
    label: str


@dataclass(frozen=True)
class GaugeZone:
    tone: str
    x: float
    width: float


@dataclass(frozen=True)
class Gauge:
    title: str
    zones: tuple[GaugeZone, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[GaugeMark, ...]


@dataclass(frozen=True)
class CollapseCheck:
    """`tone` is good, open or bad; `text` names the lowest site in each measure."""

    tone: str
    word: str
    text: str
    gauges: tuple[Gauge, ...]


def collapse_check(run: Run) -> CollapseCheck | None:
    """By the last evaluation of each site; None without evaluations, or if all sites have few images."""
    found = {measure: _last(run, measure) for measure in (FEATURE_STD, EFFECTIVE_RANK)}
    found = {measure: values for measure, values in found.items() if values}
    if not found:
        return None
    tones, lowest = {}, []
    for measure, values in found.items():
        site = min(values, key=lambda name: values[name])
        tones[measure] = measure.tone(values[site])
        lowest.append(f"lowest {measure.title.partition(' (')[0].lower()} {values[site]:.3g} ({site})")
    if tones.get(EFFECTIVE_RANK) == "good" and tones.get(FEATURE_STD) == "bad":
        tones[FEATURE_STD] = "open"
    tone = max(tones.values(), key=_SEVERITY.index)
    gauge_of = {FEATURE_STD: _std_gauge, EFFECTIVE_RANK: _rank_gauge}
    gauges = tuple(gauge_of[measure](values) for measure, values in found.items())
    return CollapseCheck(tone, _WORDS[tone], _text(tone, ", ".join(lowest)), gauges)


def _text(tone: str, lowest: str) -> str:
    finding = {
        "good": "The features of every site differ between images",
        "open": "The features of a site differ less between images than those of a trained encoder usually do",
        "bad": "The features of a site are nearly the same for all images",
    }[tone]
    advice = {
        "good": "",
        "open": " This is usual early in a run; if it lasts, check whether the curves below rise or fall.",
        "bad": " This encoder is of no use: lower the learning rate, or check the settings of the method.",
    }[tone]
    return f"{finding}. Last evaluation: {lowest}.{advice}"


def _last(run: Run, measure: CollapseMeasure) -> dict[str, float]:
    """Site -> value of its last evaluation."""
    values: dict[str, float] = {}
    for one in run.rounds:
        for site, measures in one.evaluation.items():
            if measure.name in measures and run.sites.get(site, {}).get("train", _FEW) >= _FEW:
                values[site] = measures[measure.name]
    return {site: values[site] for site in run.sites if site in values}


def _std_gauge(values: dict[str, float]) -> Gauge:
    at = LinearScale(0.0, max(1.0, *values.values()), LEFT, RIGHT)
    return _gauge(FEATURE_STD, values, at, (0.0, 0.25, 0.5, 0.75, 1.0), at.high)


def _rank_gauge(values: dict[str, float]) -> Gauge:
    """On a log scale: the limits are near 1 and a good rank is in the hundreds."""
    top = 10.0 ** math.ceil(math.log10(max(100.0, *values.values())))
    line = LinearScale(0.0, math.log10(top), LEFT, RIGHT)
    labels = [10.0**power for power in range(round(math.log10(top)) + 1)]
    return _gauge(EFFECTIVE_RANK, values, lambda value: line(math.log10(max(value, 1.0))), labels, top)


def _gauge(
    measure: CollapseMeasure, values: dict[str, float], at: Callable[[float], float], labels: Sequence[float],
    top: float,
) -> Gauge:  # fmt: skip
    ends = (LEFT, at(measure.collapsed), at(measure.good), at(top))
    zones = tuple(
        GaugeZone(tone, ends[n], round(ends[n + 1] - ends[n], 1)) for n, tone in enumerate(("bad", "open", "good"))
    )
    marks = tuple(GaugeMark(site, at(value), f"{site}: {value:.3g}") for site, value in values.items())
    return Gauge(measure.title, zones, tuple(Tick(at(label), f"{label:g}") for label in labels), marks)
