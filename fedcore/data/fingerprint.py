"""What a run's folder says of its images: counts and shapes, nothing of a patient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedcore.data.dataset import Cohort, Images


def describe(cohort: Cohort) -> dict[str, Any]:
    """The part of `run.json` that is about images."""
    return {
        "sites": {name: _counts(images) for name, images in cohort.sites.items()},
        "classes": list(cohort.classes), "size": list(cohort.size), "channels": cohort.channels,
        "notes": list(cohort.notes), "faults": list(cohort.faults), "data": fingerprint(cohort),
    }  # fmt: skip


def _counts(images: Images) -> dict[str, int]:
    return {split: int((images.splits == split).sum()) for split in ("train", "val", "test")}


def fingerprint(cohort: Cohort) -> str:
    """Another one when images are added, removed, relabelled or moved, or when any pixel, mask, position or spacing
    changes.

    Of images that accompany them, and of further sites, a part behind a plus sign tells: runs with and without are on
    the same images. All pixels are read once, 8 MiB at a time: 0.9 s on a core of a Xeon with SHA
    extensions for 10,000 float16 images of 224 x 224 that the disk's cache holds (1 GB).
    """
    own = {name: images for name, images in cohort.sites.items() if name not in cohort.extra_sites}
    added = {name: images for name, images in cohort.sites.items() if name in cohort.extra_sites}
    if companions := next(iter(cohort.sites.values())).companions:  # everybody has the same
        added[str(companions.share)] = companions.images
    first = _digest(cohort, own)
    return f"{first}+{_digest(cohort, added)}" if added else first


def _digest(cohort: Cohort, sites: Mapping[str, Images]) -> str:
    digest = hashlib.sha256(repr((cohort.classes, cohort.size)).encode())
    for site, images in sites.items():
        for name, part in _parts(images).items():
            digest.update(repr((site, name, None if part is None else (part.dtype.str, part.shape[1:]))).encode())
            for chunk in () if part is None else _chunks(part, images.index if name in _STORED else None):
                digest.update(chunk)
    return digest.hexdigest()[:16]


_STORED = ("pixels", "masks")
"""Of all that is stored, of which a part may be asked for."""


def _parts(images: Images) -> dict[str, np.ndarray | None]:
    """All that is known of each image. Findings are told by the labels, and rows are places in a file."""
    return {
        "labels": images.labels.numpy(), "patients": images.patients,
        "splits": np.char.encode(images.splits.astype("U5"), "utf-8"), "positions": images.positions,
        "spacing": images.spacing, "pixels": images.pixels, "masks": images.masks,
    }  # fmt: skip


def _chunks(stored: np.ndarray, index: np.ndarray | None, size: int = 8 << 20) -> Iterator[bytes]:
    """Of the array's entries, or of those at `index`, about `size` at a time: it may be a map of a file."""
    count = len(stored) if index is None else len(index)
    step = max(1, size * len(stored) // max(1, stored.nbytes))
    for start in range(0, count, step):
        at = slice(start, min(start + step, count))
        yield (stored[at] if index is None else stored[index[at]]).tobytes()
