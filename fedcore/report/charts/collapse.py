"""A verdict on collapse: do the features still tell images apart, at every site?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcore.report.charts.charts import LEFT, RIGHT, Scale, Tick
from fedcore.report.read.run import Run

_FEW = 20  # training images; below, both measures say more of the number of images than of the encoder
_WORDS = {"good": "Healthy", "open": "Watch", "bad": "Collapsed"}
_GRAVITY = ("good", "open", "bad")


@dataclass(frozen=True)
class Measure:
    """Below `collapsed` nothing is left to tell apart, below `watch` it is worth a look."""

    name: str
    title: str
    collapsed: float
    watch: float

    def tone(self, value: float) -> str:
        return "bad" if value < self.collapsed else "open" if value < self.watch else "good"


SPREAD = Measure("feature_std", "Spread of the features", 0.05, 0.3)
RANK = Measure("effective_rank", "Effective rank of the features", 2.0, 10.0)
BASIS = (
    "Spread is the mean standard deviation of the normalised features times the square root of their length: "
    "1 is spread evenly, 0 is collapse (Chen and He 2020, arXiv 2011.10566). Effective rank is the exponential of the "
    "entropy of the singular values (Roy and Vetterli 2007): how many dimensions are in use, 1 is collapse. The papers "
    f"give no limits. Ours are rules of thumb: collapsed below a spread of {SPREAD.collapsed:g} or a rank of "
    f"{RANK.collapsed:g}, watch below {SPREAD.watch:g} or {RANK.watch:g}. A rank of {RANK.watch:g} and more speaks "
    "against collapse: features that share a large common part have a small spread and still tell images apart, as a "
    "masked autoencoder's do. For measure: an untrained ResNet on brain MRI has a spread of 0.13 and a rank of 140, "
    "a trained one 0.6 and 140."
)


@dataclass(frozen=True)
class Needle:
    site: str
    x: float
    label: str


@dataclass(frozen=True)
class Zone:
    tone: str
    x: float
    width: float


@dataclass(frozen=True)
class Dial:
    title: str
    zones: tuple[Zone, ...]
    ticks: tuple[Tick, ...]
    needles: tuple[Needle, ...]


@dataclass(frozen=True)
class Health:
    """`tone` as in the page's verdict; `text` says which site is lowest, in both measures."""

    tone: str
    word: str
    text: str
    dials: tuple[Dial, ...]


def health(run: Run) -> Health | None:
    """Of the last round surveyed; None where there was no survey, or of sites with few images alone."""
    found = {measure: _last(run, measure) for measure in (SPREAD, RANK)}
    found = {measure: values for measure, values in found.items() if values}
    if not found:
        return None
    tones, lowest = {}, []
    for measure, values in found.items():
        site = min(values, key=lambda name: values[name])
        tones[measure] = measure.tone(values[site])
        lowest.append(f"lowest {measure.title.split()[0].lower()} {_said(measure)} {values[site]:.3g} ({site})")
    if tones.get(RANK) == "good" and tones.get(SPREAD) == "bad":
        tones[SPREAD] = "open"
    tone = max(tones.values(), key=_GRAVITY.index)
    draw = {SPREAD: _spread_dial, RANK: _rank_dial}
    dials = tuple(draw[measure](values) for measure, values in found.items())
    return Health(tone, _WORDS[tone], _text(tone, " and ".join(lowest)), dials)


def _said(measure: Measure) -> str:
    return "of" if measure is SPREAD else "rank of"


def _text(tone: str, lowest: str) -> str:
    told = {
        "good": "The features of every site tell images apart",
        "open": "The features of a site lie closer together than a trained encoder's usually do",
        "bad": "The features of a site have become nearly one and the same",
    }[tone]
    advice = {
        "good": "",
        "open": " Early in a run this is usual; if it lasts, see whether the curves below rise or fall.",
        "bad": " An encoder like this is of no use: lower the learning rate, or look at the method's settings.",
    }[tone]
    return f"{told}: {lowest}, at the last survey.{advice}"


def _last(run: Run, measure: Measure) -> dict[str, float]:
    """Site -> value of its last survey."""
    values: dict[str, float] = {}
    for turn in run.turns:
        for site, survey in turn.survey.items():
            if measure.name in survey and run.sites.get(site, {}).get("train", _FEW) >= _FEW:
                values[site] = survey[measure.name]
    return {site: values[site] for site in run.sites if site in values}


def _spread_dial(values: dict[str, float]) -> Dial:
    at = Scale(0.0, max(1.0, *values.values()), LEFT, RIGHT)
    return _dial(SPREAD, values, at, (0.0, 0.25, 0.5, 0.75, 1.0), at.high)


def _rank_dial(values: dict[str, float]) -> Dial:
    """On a log scale, since the limits lie near 1 and a healthy rank in the hundreds."""
    top = 10.0 ** math.ceil(math.log10(max(100.0, *values.values())))
    line = Scale(0.0, math.log10(top), LEFT, RIGHT)
    marks = [10.0**power for power in range(round(math.log10(top)) + 1)]
    return _dial(RANK, values, lambda value: line(math.log10(max(value, 1.0))), marks, top)


def _dial(
    measure: Measure, values: dict[str, float], at: Callable[[float], float], marks: Sequence[float], top: float
) -> Dial:
    ends = (LEFT, at(measure.collapsed), at(measure.watch), at(top))
    zones = tuple(
        Zone(tone, ends[n], round(ends[n + 1] - ends[n], 1)) for n, tone in enumerate(("bad", "open", "good"))
    )
    needles = tuple(Needle(site, at(value), f"{site}: {value:.3g}") for site, value in values.items())
    return Dial(measure.title, zones, tuple(Tick(at(mark), f"{mark:g}") for mark in marks), needles)
