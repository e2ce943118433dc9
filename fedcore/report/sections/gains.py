"""What a synthetic set adds at each site: runs with it beside runs that are equal to them in all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

from fedcore.report.naming import start_name
from fedcore.report.read.run import Estimate
from fedcore.report.sections.comparison import SCORES, Entry
from fedcore.report.sections.results import POOLED, scored
from fedcore.report.units import metric_name, percent

_ADDED = ("synthetic", "extra_manifests", "allow_unaudited")
_ASIDE = ("out", "resume", "loggers", "workers")
"""Of a recipe; no score hangs on them."""


@dataclass(frozen=True)
class Gain:
    """One measure at one site; `points` are hundredths of it, with the set minus without."""

    without: Estimate
    with_set: Estimate
    points: Estimate

    @property
    def tone(self) -> str:
        """Good or bad where the interval leaves out 0."""
        low, high = self.points.low, self.points.high
        if low is None or high is None or low <= 0 <= high:
            return ""
        return "good" if low > 0 else "bad"


@dataclass(frozen=True)
class Pair:
    """`rows` holds, by site and last pooled, a gain or None for each column, and the test images."""

    with_set: Entry
    without: Entry
    how: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Gain | None, ...], int | None], ...]


def pairs(entries: Sequence[Entry]) -> tuple[Pair, ...]:
    """Each run with a set, beside the first that is equal but has none."""
    bare = [entry for entry in entries if entry.pooled and not has_set(entry)]
    found = ((entry, next((other for other in bare if _equal(other, entry)), None)) for entry in _with_set(entries))
    return tuple(_pair(entry, other) for entry, other in found if other)


def unpaired(entries: Sequence[Entry]) -> list[str]:
    """The runs with a set that are equal to no run without, in a sentence each."""
    paired = {pair.with_set.name for pair in pairs(entries)}
    return [
        f"{entry.name} learned from a synthetic set or further sites, and no run here is equal to it in all else: what "
        "they add is not told."
        for entry in _with_set(entries)
        if entry.name not in paired
    ]


def has_set(entry: Entry) -> bool:
    """Whether images of `data.synthetic` or `data.extra_manifests` were learned from."""
    data = _data(entry)
    return bool(data.get("synthetic") or data.get("extra_manifests"))


def difference(with_set: Estimate, without: Estimate) -> Estimate:
    """With minus without. The ends are made of both intervals, as if the two were independent (Zou and Donner 2008,
    doi 10.1002/sim.3095): of runs on the same test images, which err alike, they lie rather too far apart.
    """
    value = with_set.value - without.value
    if with_set.low is None or with_set.high is None or without.low is None or without.high is None:
        return Estimate(value, None, None)
    below = hypot(with_set.value - with_set.low, without.high - without.value)
    above = hypot(with_set.high - with_set.value, without.value - without.low)
    return Estimate(value, value - below, value + above)


def _with_set(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.pooled and has_set(entry)]


def _equal(one: Entry, other: Entry) -> bool:
    return _images(one) == _images(other) and _rest(one) == _rest(other)


def _images(entry: Entry) -> str:
    return entry.run.data.partition("+")[0]


def _rest(entry: Entry) -> dict[str, Any]:
    """The recipe without what makes no difference and without the set."""
    kept = {name: value for name, value in entry.recipe.items() if name not in _ASIDE}
    data = {name: value for name, value in _data(entry).items() if name not in (*_ADDED, "cache")}
    return kept | {"data": data, "pretrained": start_name(entry.recipe.get("pretrained"))}


def _data(entry: Entry) -> Mapping[str, Any]:
    found = entry.recipe.get("data")
    return found if isinstance(found, dict) else {}


def _pair(entry: Entry, other: Entry) -> Pair:
    ours, theirs = scored(entry.run), scored(other.run)
    owners = [owner for owner in theirs if owner in ours]
    if ours.keys() != theirs.keys():  # the set has test images of its own: what is pooled differs
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
    return Pair(entry, other, _how(entry), tuple(map(metric_name, names)), rows)


def _gain(with_set: Estimate | None, without: Estimate | None) -> Gain | None:
    if with_set is None or without is None:
        return None
    found = difference(with_set, without)
    points = (None if end is None else 100 * end for end in (found.low, found.high))
    return Gain(without, with_set, Estimate(100 * found.value, *points))


def _how(entry: Entry) -> str:
    data = _data(entry)
    drawn = data.get("synthetic")
    share = drawn.get("share") if isinstance(drawn, dict) else None
    told = [f"{percent(share)} of every batch" if isinstance(share, float) else "in every batch"] if drawn else []
    return ", ".join(told + (["as further sites"] if data.get("extra_manifests") else []))
