"""Synthetic images of the last audit that are closest to training images, from the files that sites kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedcore.report.charts.closeness_histogram import ClosenessHistogram, closeness_histogram
from fedcore.report.read.site_files import UNREADABLE, figure_files
from fedcore.report.thumbnails import thumbnail
from fedcore.site.figure_files import MOST_PAIRS, NearestPairsFile, ViewPairs

_BYTES = 1_200_000  # of the page's 5 MB
_BAR = 150  # bytes of one bar of a histogram


@dataclass(frozen=True)
class NearestPair:
    """A synthetic image, by its number in the set, and the closest training image; `copy` if below the limit."""

    number: int
    synthetic: str
    trained: str
    closeness: float
    copy: bool


@dataclass(frozen=True)
class PairsByView:
    """By one way of comparing: pixels or features."""

    view: str
    limit: float
    pairs: tuple[NearestPair, ...]
    histogram: ClosenessHistogram


@dataclass(frozen=True)
class SitePairs:
    site: str
    views: tuple[PairsByView, ...]

    @property
    def size(self) -> int:
        pictures = sum(len(pair.synthetic) + len(pair.trained) for view in self.views for pair in view.pairs)
        return pictures + _BAR * sum(len(view.histogram.bars) for view in self.views)


def read_pairs(folder: Path, sites: Iterable[str], audited: str, gaps: list[str]) -> tuple[SitePairs, ...]:
    """Of the sites that audited the set with the digest `audited`, within the page's bytes."""
    files = figure_files(folder, sites, NearestPairsFile.NAME)
    found: list[SitePairs] = []
    for at, (site, path) in enumerate(files.items()):
        try:
            file = NearestPairsFile.load(path)
            views = tuple(_by_view(name, pairs) for name, pairs in file.views.items()) if file.set == audited else ()
        except UNREADABLE:
            gaps.append(f"The nearest pairs of {site} cannot be read.")
            continue
        if file.set != audited:
            gaps.append(f"The nearest pairs of {site} are not of the last audit and are not shown.")
            continue
        pairs = SitePairs(site, views)
        if pairs.size + sum(one.size for one in found) > _BYTES:
            gaps.append(f"The nearest pairs of {len(files) - at} sites are left out to keep this page small.")
            break
        found += [pairs] if views else []
    return tuple(found)


def _by_view(name: str, file: ViewPairs) -> PairsByView:
    limit = float(file.limit)
    columns = (file.numbers, file.synthetic, file.trained, file.closeness)
    pairs = tuple(
        NearestPair(int(number), thumbnail(synthetic), thumbnail(trained), float(closeness), bool(closeness < limit))
        for number, synthetic, trained, closeness in zip(*(column[:MOST_PAIRS] for column in columns), strict=True)
    )
    return PairsByView(
        name, limit, pairs, closeness_histogram(file.held_out_closeness, file.synthetic_closeness, limit)
    )
