"""What a run's folder says of its images: counts and shapes, nothing of a patient."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedcore.data.images import Cohort, Images


def describe(cohort: Cohort) -> dict[str, Any]:
    """The part of `run.json` that is about images."""
    return {
        "sites": {name: _counts(images) for name, images in cohort.sites.items()},
        "classes": list(cohort.classes), "size": list(cohort.size), "channels": cohort.channels,
        "notes": list(cohort.notes), "faults": list(cohort.faults), "data": fingerprint(cohort),
    }  # fmt: skip


def _counts(images: Images) -> dict[str, int]:
    return {split: int((images.splits == split).sum()) for split in ("train", "val", "test")}


def fingerprint(cohort: Cohort, looks: int = 16) -> str:
    """Changes when images are added, removed, relabelled or moved, or when one of `looks` images a site changes.

    Of images that accompany them, and of further sites, a part behind a plus sign tells: runs with and without are on
    the same images.
    """
    own = {name: images for name, images in cohort.sites.items() if name not in cohort.further}
    added = {name: images for name, images in cohort.sites.items() if name in cohort.further}
    if companions := next(iter(cohort.sites.values())).companions:  # everybody has the same
        added[str(companions.share)] = companions.images
    first = _digest(cohort, own, looks)
    return f"{first}+{_digest(cohort, added, looks)}" if added else first


def _digest(cohort: Cohort, sites: Mapping[str, Images], looks: int) -> str:
    digest = hashlib.sha256(repr((cohort.classes, cohort.size)).encode())
    for name, images in sites.items():
        digest.update(name.encode())
        for part in _parts(images, looks):
            digest.update(part.tobytes())
    return digest.hexdigest()[:16]


def _parts(images: Images, looks: int) -> tuple[np.ndarray, ...]:
    places = np.linspace(0, len(images) - 1, min(looks, len(images))).astype(np.int64)
    splits = np.char.encode(images.splits.astype(str), "utf-8")
    positions = () if images.positions is None else (images.positions,)
    return images.labels.numpy(), images.patients, splits, images.batch(places).numpy(), *positions
