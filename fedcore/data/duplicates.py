"""Images that are equal pixel by pixel, whatever their files; warnings name rows and counts, never files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fedcore.data.manifest.row import Row

_SHOWN = 5
_ADVICE = {
    "splits": "in several splits, so that scores include training images; remove all but one of each",
    "sites": "at several sites, as if patients had been at both; remove all but one of each",
    "site": "at one site, where they have more weight than others; remove all but one of each",
}


def pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256, equal for arrays of equal shape, type and values; 1.4 GB a second on a core with SHA extensions."""
    digest = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def duplicate_warnings(rows: Sequence[Row], digests: Sequence[str]) -> list[str]:
    """At most one warning each for equal images in several splits, at several sites, and within a site.

    Args:
        rows: The images.
        digests: The digest of each image's pixels; an empty one equals no other.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row, digest in sorted(zip(rows, digests, strict=True), key=lambda pair: pair[0].number):
        if digest:
            groups[digest].append(row)
    found: dict[str, list[list[Row]]] = {kind: [] for kind in _ADVICE}
    for group in groups.values():
        if len(group) > 1:
            found[_kind(group)].append(group)
    return [_warning(found[kind], advice) for kind, advice in _ADVICE.items() if found[kind]]


def _kind(group: Sequence[Row]) -> str:
    if len({row.split for row in group}) > 1:
        return "splits"
    return "sites" if len({row.site for row in group}) > 1 else "site"


def _warning(groups: Sequence[Sequence[Row]], advice: str) -> str:
    shown = "; ".join(" = ".join(map(_name, group[:_SHOWN])) for group in groups[:_SHOWN])
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    images = f"{len(groups)} images occur" if len(groups) > 1 else "1 image occurs"
    return f"{images} more than once (equal pixels) {advice}: rows {shown}{more}"


def _name(row: Row) -> str:
    return str(row.number) if row.index is None else f"{row.number} [{row.index}]"
