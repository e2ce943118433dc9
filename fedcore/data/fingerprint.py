"""A digest of all images of a run, by which a resumed run and an audit recognise their data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images


def fingerprint(cohort: Cohort) -> str:
    """Changes when images are added, removed, relabelled or moved, or when any pixel, mask, position or spacing
    changes.

    Added images and extra sites have a digest of their own behind a plus sign, so that runs with and without them
    have the same first part. All pixels are read once, 8 MiB at a time: 0.9 s on a core of a Xeon with SHA
    extensions for 10,000 float16 images of 224 x 224 in the disk's cache (1 GB).
    """
    own = {name: images for name, images in cohort.sites.items() if name not in cohort.extra_sites}
    extra = {name: images for name, images in cohort.sites.items() if name in cohort.extra_sites}
    if added := next(iter(cohort.sites.values())).added:  # all sites have the same
        extra[str(added.fraction)] = added.images
    first = _digest(cohort, own)
    return f"{first}+{_digest(cohort, extra)}" if extra else first


def _digest(cohort: Cohort, sites: Mapping[str, Images]) -> str:
    digest = hashlib.sha256(repr((cohort.classes, cohort.size)).encode())
    for site, images in sites.items():
        for name, part in _parts(images).items():
            digest.update(repr((site, name, None if part is None else (part.dtype.str, part.shape[1:]))).encode())
            for chunk in () if part is None else _chunks(part, images.index if name in _STORED else None):
                digest.update(chunk)
    return digest.hexdigest()[:16]


_STORED = ("pixels", "masks")
"""Arrays that a subset of images keeps whole, with an index."""


def _parts(images: Images) -> dict[str, np.ndarray | None]:
    """All data of each image, but for findings, which follow from the labels, and rows, which are places in a file."""
    return {
        "labels": images.labels.numpy(), "patients": images.patients,
        "splits": np.char.encode(images.splits.astype("U5"), "utf-8"), "positions": images.positions,
        "spacing": images.spacing, "pixels": images.pixels, "masks": images.masks,
    }  # fmt: skip


def _chunks(stored: np.ndarray, index: np.ndarray | None, size: int = 8 << 20) -> Iterator[bytes]:
    """The entries of an array, or those at `index`, about `size` bytes at a time: it may be a memory-mapped file."""
    count = len(stored) if index is None else len(index)
    step = max(1, size * len(stored) // max(1, stored.nbytes))
    for start in range(0, count, step):
        at = slice(start, min(start + step, count))
        yield (stored[at] if index is None else stored[index[at]]).tobytes()
