"""Training images of each site with their augmented views, from the files that sites kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.report.read.site_files import UNREADABLE, figure_files
from fedcore.report.thumbnails import tile
from fedcore.site.figure_files import AugmentedViewsFile

_TILES = 120  # images over all sites, without their views
_VOLUMES = 2  # of a site: each takes a row
_BYTES = 2_000_000  # of the page's 5 MB


@dataclass(frozen=True)
class SiteViews:
    """`rows` holds, for each image, the data URIs of the image and of its views."""

    site: str
    rows: tuple[tuple[str, ...], ...]
    volume: bool


def read_views(folder: Path, sites: Iterable[str], gaps: list[str]) -> tuple[SiteViews, ...]:
    """Of the sites that kept a file, within the page's bytes; what is missing is noted in `gaps`."""
    files = figure_files(folder, sites, AugmentedViewsFile.NAME)
    found: list[SiteViews] = []
    spent = 0
    for at, (site, path) in enumerate(files.items()):
        try:
            views = _views(site, AugmentedViewsFile.load(path), most=max(1, min(6, _TILES // len(files))))
        except UNREADABLE:
            gaps.append(f"The augmented views of {site} cannot be read.")
            continue
        size = sum(len(picture) for row in views.rows for picture in row)
        if spent + size > _BYTES:
            gaps.append(f"The augmented views of {len(files) - at} sites are left out to keep this page small.")
            break
        spent += size
        found += [views] if views.rows else []
    return tuple(found)


def _views(site: str, file: AugmentedViewsFile, *, most: int) -> SiteViews:
    volume = file.images.ndim == 5
    images = file.images[: min(most, _VOLUMES) if volume else most].astype(np.float32)
    views = [()] * len(images) if file.views is None else file.views[: len(images)].astype(np.float32)
    rows = tuple(tuple(tile(one) for one in (image, *of)) for image, of in zip(images, views, strict=True))
    return SiteViews(site, rows, volume)
