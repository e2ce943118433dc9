"""Images that are equal pixel by pixel, in whatever files they come: told by rows and counts, never by name."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fedcore.data.manifest.row import Row

_SHOWN = 5
_ADVICE = {
    "splits": "in several splits, so that scores count images of the training; remove all but one of each",
    "sites": "at several sites, as if patients had been at both; remove all but one of each",
    "site": "at one site, where they weigh more than others; remove all but one of each",
}


def pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256, equal for arrays of equal shape, type and values; 1.4 GB a second on a core with SHA extensions."""
    digest = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def equal_images(rows: Sequence[Row], digests: Sequence[str]) -> list[str]:
    """A line for equal images of two splits, of two sites, and within a site; an empty digest equals none."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row, digest in sorted(zip(rows, digests, strict=True), key=lambda pair: pair[0].number):
        if digest:
            groups[digest].append(row)
    found: dict[str, list[list[Row]]] = {what: [] for what in _ADVICE}
    for group in groups.values():
        if len(group) > 1:
            found[_kind(group)].append(group)
    return [_told(found[kind], advice) for kind, advice in _ADVICE.items() if found[kind]]


def _kind(group: Sequence[Row]) -> str:
    if len({row.split for row in group}) > 1:
        return "splits"
    return "sites" if len({row.site for row in group}) > 1 else "site"


def _told(groups: Sequence[Sequence[Row]], advice: str) -> str:
    shown = "; ".join(" = ".join(map(_name, group[:_SHOWN])) for group in groups[:_SHOWN])
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    images = f"{len(groups)} images are" if len(groups) > 1 else "1 image is"
    return f"{images} there more than once (equal pixels) {advice}: rows {shown}{more}"


def _name(row: Row) -> str:
    return str(row.number) if row.index is None else f"{row.number} [{row.index}]"
