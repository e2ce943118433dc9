"""The galleries that sites left in their own folders: features of images, and neighbours of a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fedcore.report.read.site_files import UNREADABLE, holders, kept
from fedcore.report.sections.images import thumbnail

FILE = "gallery.npz"
_ROWS = 28  # of neighbours, over all sites
_BYTES = 1_200_000  # of the page's 5 MB


@dataclass(frozen=True)
class Hit:
    """A neighbour; `same` is None where it or the query has no label."""

    picture: str
    label: str
    same: bool | None
    cosine: float


@dataclass(frozen=True)
class Found:
    """A query and its neighbours, nearest first."""

    picture: str
    label: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Gallery:
    site: str
    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "n"]
    encoder: int
    """Checksum: features of encoders that differ cannot be compared."""
    rows: tuple[Found, ...]

    @property
    def hits(self) -> tuple[int, int]:
        """How many neighbours have their query's class, and of how many that is known."""
        known = [hit.same for row in self.rows for hit in row.hits if hit.same is not None]
        return sum(known), len(known)


def read_galleries(folder: Path, sites: Iterable[str], classes: Sequence[str], gaps: list[str]) -> tuple[Gallery, ...]:
    """The galleries of the sites that left one, within the page's bytes; what is missing is noted."""
    having = holders(folder, sites, FILE)
    galleries, spent = [], 0
    for site in having:
        most = 0 if spent > _BYTES else max(1, min(4, _ROWS // len(having)))
        try:
            with kept(folder, site, FILE) as held:
                found = _gallery(site, held, classes, most)
        except UNREADABLE:
            gaps.append(f"The gallery of {site} cannot be read.")
            continue
        galleries.append(found)
        spent += sum(len(row.picture) + sum(len(hit.picture) for hit in row.hits) for row in found.rows)
    if spent > _BYTES and (bare := sum(not found.rows for found in galleries)):
        gaps.append(f"The nearest neighbours of {bare} sites are left out to keep this page small.")
    return tuple(galleries)


def _gallery(site: str, held: Mapping[str, np.ndarray], classes: Sequence[str], most: int) -> Gallery:
    features, labels = held["features"].astype(np.float32), held["labels"].astype(np.int64)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not np.isfinite(features).all():
        raise ValueError("features are of another shape or not finite")
    encoder = int(held["encoder"]) if "encoder" in held else 0
    return Gallery(site, features, labels, encoder, _rows(held, classes, most) if most else ())


def _rows(held: Mapping[str, np.ndarray], classes: Sequence[str], most: int) -> tuple[Found, ...]:
    names = ("queries", "query_labels", "neighbours", "neighbour_labels", "cosines")
    queries, labels, neighbours, theirs, cosines = (held[name][:most] for name in names)
    if not (len(queries) == len(labels) == len(neighbours) and neighbours.shape[:2] == theirs.shape == cosines.shape):
        raise ValueError("neighbours are of another shape")
    rows = []
    for at, query in enumerate(queries):
        hits = tuple(
            Hit(thumbnail(near), class_name(label, classes), _same(labels[at], label), float(cosine))
            for near, label, cosine in zip(neighbours[at], theirs[at], cosines[at], strict=True)
        )
        rows.append(Found(thumbnail(query), class_name(labels[at], classes), hits))
    return tuple(row for row in rows if row.hits)


def _same(one: np.integer, other: np.integer) -> bool | None:
    return None if min(one, other) < 0 else bool(one == other)


def class_name(label: np.integer | int, classes: Sequence[str]) -> str:
    if label < 0:
        return "unlabelled"
    return classes[int(label)] if label < len(classes) else f"class {label}"
