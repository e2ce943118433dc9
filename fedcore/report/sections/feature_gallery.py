"""Features of the sites' images, and nearest neighbours of a few of them, from the files that sites kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fedcore.report.read.site_files import UNREADABLE, figure_files
from fedcore.report.thumbnails import thumbnail
from fedcore.site.figure_files import FeatureGalleryFile

_ROWS = 28  # of neighbours, over all sites
_BYTES = 1_200_000  # of the page's 5 MB


@dataclass(frozen=True)
class Neighbour:
    """`same_class` is None where it or the query has no label."""

    picture: str
    label: str
    same_class: bool | None
    cosine: float


@dataclass(frozen=True)
class QueryRow:
    """A query image and its neighbours, nearest first."""

    picture: str
    label: str
    neighbours: tuple[Neighbour, ...]

    @property
    def size(self) -> int:
        return len(self.picture) + sum(len(neighbour.picture) for neighbour in self.neighbours)


@dataclass(frozen=True)
class SiteFeatures:
    site: str
    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "n"]
    encoder: int
    """Checksum: features of encoders that differ cannot be compared."""
    rows: tuple[QueryRow, ...]

    @property
    def same_class(self) -> tuple[int, int]:
        """Neighbours of their query's class, and neighbours of which that is known."""
        known = [near.same_class for row in self.rows for near in row.neighbours if near.same_class is not None]
        return sum(known), len(known)


def read_features(
    folder: Path, sites: Iterable[str], classes: Sequence[str], gaps: list[str]
) -> tuple[SiteFeatures, ...]:
    """Of the sites that kept a file, within the page's bytes; what is missing is noted in `gaps`."""
    files = figure_files(folder, sites, FeatureGalleryFile.NAME)
    found: list[SiteFeatures] = []
    spent = 0
    for site, path in files.items():
        most = 0 if spent > _BYTES else max(1, min(4, _ROWS // len(files)))
        try:
            features = _features(site, FeatureGalleryFile.load(path), classes, most)
        except UNREADABLE:
            gaps.append(f"The feature gallery of {site} cannot be read.")
            continue
        found.append(features)
        spent += sum(row.size for row in features.rows)
    if spent > _BYTES and (bare := sum(not features.rows for features in found)):
        gaps.append(f"The nearest neighbours of {bare} sites are left out to keep this page small.")
    return tuple(found)


def class_name(label: np.integer | int, classes: Sequence[str]) -> str:
    if label < 0:
        return "unlabelled"
    return classes[int(label)] if label < len(classes) else f"class {label}"


def _features(site: str, file: FeatureGalleryFile, classes: Sequence[str], most: int) -> SiteFeatures:
    features = file.features.astype(np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features are not finite")
    rows = tuple(row for row in _rows(file, classes, most) if row.neighbours)
    return SiteFeatures(site, features, file.labels, int(file.encoder_checksum), rows)


def _rows(file: FeatureGalleryFile, classes: Sequence[str], most: int) -> Iterator[QueryRow]:
    for at, (query, label) in enumerate(zip(file.queries[:most], file.query_labels, strict=False)):
        neighbours = tuple(
            Neighbour(thumbnail(near), class_name(other, classes), _same(label, other), float(cosine))
            for near, other, cosine in zip(
                file.neighbours[at], file.neighbour_labels[at], file.cosines[at], strict=True
            )
        )
        yield QueryRow(thumbnail(query), class_name(label, classes), neighbours)


def _same(one: np.integer, other: np.integer) -> bool | None:
    return None if min(one, other) < 0 else bool(one == other)
