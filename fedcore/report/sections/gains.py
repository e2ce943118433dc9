"""The gain from a synthetic set at each site: runs with it against runs that are equal in everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

from fedcore.report.naming import start_name
from fedcore.report.read.run import Estimate
from fedcore.report.sections.comparison import SCORES, ComparedRun
from fedcore.report.sections.results import POOLED, scores_by_site
from fedcore.report.units import metric_name, percent

_ADDED = ("synthetic", "extra_manifests", "allow_unaudited")
_IRRELEVANT = ("out", "resume", "loggers", "workers")
"""Options of a recipe that do not change scores."""


@dataclass(frozen=True)
class Gain:
    """One metric at one site; `points` are percentage points, with the set minus without."""

    without: Estimate
    with_set: Estimate
    points: Estimate

    @property
    def tone(self) -> str:
        """Good or bad if the interval excludes 0."""
        low, high = self.points.low, self.points.high
        if low is None or high is None or low <= 0 <= high:
            return ""
        return "good" if low > 0 else "bad"


@dataclass(frozen=True)
class RunPair:
    """`rows` holds, by site and finally pooled, a gain or None for each column, and the number of test images."""

    with_set: ComparedRun
    without: ComparedRun
    how: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Gain | None, ...], int | None], ...]


def pairs(entries: Sequence[ComparedRun]) -> tuple[RunPair, ...]:
    """Each run with a set, and the first that is equal but has none."""
    bare = [entry for entry in entries if entry.pooled and not has_set(entry)]
    found = ((entry, next((other for other in bare if _equal(other, entry)), None)) for entry in _with_set(entries))
    return tuple(_pair(entry, other) for entry, other in found if other)


def unpaired(entries: Sequence[ComparedRun]) -> list[str]:
    """One sentence for each run with a set that has no equal run without."""
    paired = {pair.with_set.name for pair in pairs(entries)}
    return [
        f"{entry.name} used a synthetic set or additional sites, but no run without them is equal to it in everything "
        "else: their gain cannot be computed."
        for entry in _with_set(entries)
        if entry.name not in paired
    ]


def has_set(entry: ComparedRun) -> bool:
    """Whether it trained on images of `data.synthetic` or `data.extra_manifests`."""
    data = _data(entry)
    return bool(data.get("synthetic") or data.get("extra_manifests"))


def difference(with_set: Estimate, without: Estimate) -> Estimate:
    """With minus without. The interval follows from both intervals as if they were independent (Zou and Donner 2008,
    doi 10.1002/sim.3095); for runs on the same test images, whose errors are correlated, it is rather too wide.
    """
    value = with_set.value - without.value
    if with_set.low is None or with_set.high is None or without.low is None or without.high is None:
        return Estimate(value, None, None)
    below = hypot(with_set.value - with_set.low, without.high - without.value)
    above = hypot(with_set.high - with_set.value, without.value - without.low)
    return Estimate(value, value - below, value + above)


def _with_set(entries: Sequence[ComparedRun]) -> list[ComparedRun]:
    return [entry for entry in entries if entry.pooled and has_set(entry)]


def _equal(one: ComparedRun, other: ComparedRun) -> bool:
    return _images(one) == _images(other) and _rest(one) == _rest(other)


def _images(entry: ComparedRun) -> str:
    return entry.run.data.partition("+")[0]


def _rest(entry: ComparedRun) -> dict[str, Any]:
    """The recipe without the set and without irrelevant options."""
    options = {name: value for name, value in entry.recipe.items() if name not in _IRRELEVANT}
    data = {name: value for name, value in _data(entry).items() if name not in (*_ADDED, "cache")}
    return options | {"data": data, "pretrained": start_name(entry.recipe.get("pretrained"))}


def _data(entry: ComparedRun) -> Mapping[str, Any]:
    found = entry.recipe.get("data")
    return found if isinstance(found, dict) else {}


def _pair(entry: ComparedRun, other: ComparedRun) -> RunPair:
    ours, theirs = scores_by_site(entry.run), scores_by_site(other.run)
    owners = [owner for owner in theirs if owner in ours]
    if ours.keys() != theirs.keys():  # additional sites have test images too, so the pooled test sets differ
        owners = [owner for owner in owners if owner != POOLED]
    names = [name for name in SCORES if any(name in ours[o].metrics and name in theirs[o].metrics for o in owners)]
    rows = tuple(
        (
            owner,
            tuple(_gain(ours[owner].metrics.get(n), theirs[owner].metrics.get(n)) for n in names),
            ours[owner].images,
        )
        for owner in owners
    )
    return RunPair(entry, other, _how(entry), tuple(map(metric_name, names)), rows)


def _gain(with_set: Estimate | None, without: Estimate | None) -> Gain | None:
    if with_set is None or without is None:
        return None
    found = difference(with_set, without)
    points = (None if end is None else 100 * end for end in (found.low, found.high))
    return Gain(without, with_set, Estimate(100 * found.value, *points))


def _how(entry: ComparedRun) -> str:
    data = _data(entry)
    synthetic = data.get("synthetic")
    fraction = synthetic.get("fraction") if isinstance(synthetic, dict) else None
    how = f"{percent(fraction)} of every batch" if isinstance(fraction, float) else "in every batch"
    return ", ".join([how] * bool(synthetic) + ["as additional sites"] * bool(data.get("extra_manifests")))
