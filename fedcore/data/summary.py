"""The part of `run.json` that is about images: counts and shapes, nothing of a patient."""

from __future__ import annotations

from typing import Any

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.fingerprint import fingerprint


def summarize(cohort: Cohort) -> dict[str, Any]:
    """Counts of images by site and split, classes, size, channels, warnings, skipped images and the fingerprint."""
    return {
        "sites": {name: _counts(images) for name, images in cohort.sites.items()},
        "classes": list(cohort.classes), "size": list(cohort.size), "channels": cohort.channels,
        "notes": list(cohort.warnings), "skipped": list(cohort.skipped), "data": fingerprint(cohort),
    }  # fmt: skip


def _counts(images: Images) -> dict[str, int]:
    return {split: int((images.splits == split).sum()) for split in ("train", "val", "test")}
