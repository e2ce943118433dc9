"""What each site kept of the last audit: the drawn images nearest to its patients' images, and how near they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.report.charts.closeness import Closeness, closeness_chart
from fedcore.report.read.site_files import UNREADABLE, holders, kept
from fedcore.report.sections.images import thumbnail

FILE = "nearest_pairs.npz"
_PAIRS = 6
_BYTES = 1_200_000  # of the page's 5 MB
_BAR = 150  # bytes of one of a chart


@dataclass(frozen=True)
class Pair:
    """A drawn image, by its number in the set, and the trained one it comes nearest to; `copy` if too near."""

    number: int
    drawn: str
    trained: str
    closeness: float
    copy: bool


@dataclass(frozen=True)
class Look:
    """By one view: pixels or features."""

    view: str
    limit: float
    pairs: tuple[Pair, ...]
    chart: Closeness


@dataclass(frozen=True)
class Lookalikes:
    site: str
    looks: tuple[Look, ...]

    @property
    def size(self) -> int:
        pictures = sum(len(pair.drawn) + len(pair.trained) for look in self.looks for pair in look.pairs)
        return pictures + _BAR * sum(len(look.chart.bars) for look in self.looks)


def read_lookalikes(folder: Path, sites: Iterable[str], audited: str, gaps: list[str]) -> tuple[Lookalikes, ...]:
    """Those of the sites that looked at the set with the digest `audited`, within the page's bytes."""
    found: list[Lookalikes] = []
    having = holders(folder, sites, FILE)
    for at, site in enumerate(having):
        try:
            with kept(folder, site, FILE) as held:
                of = str(held["set"])
                looks = tuple(_look(str(view), held) for view in held["views"]) if of == audited else ()
        except UNREADABLE:
            gaps.append(f"What {site} kept of the audit cannot be read.")
            continue
        if of != audited:
            gaps.append(f"{site} kept images of another audit than the last, which are not shown.")
            continue
        one = Lookalikes(site, looks)
        if one.size + sum(other.size for other in found) > _BYTES:
            gaps.append(f"The nearest images of {len(having) - at} sites are left out to keep this page small.")
            break
        found += [one] if looks else []
    return tuple(found)


def _look(view: str, held: Mapping[str, np.ndarray]) -> Look:
    names = ("numbers", "synthetic", "trained", "closeness")
    columns = [held[f"{view}_{name}"][:_PAIRS] for name in names]
    limit = float(held[f"{view}_limit"])
    pairs = tuple(
        Pair(int(number), thumbnail(drawn), thumbnail(trained), float(near), bool(near < limit))
        for number, drawn, trained, near in zip(*columns, strict=True)
    )
    all_images = held[f"{view}_held_out_closeness"], held[f"{view}_synthetic_closeness"]
    return Look(view, limit, pairs, closeness_chart(*all_images, limit))
