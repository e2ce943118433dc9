"""The images of all sites of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedcore.data.dataset import Images
from fedcore.errors import InputError


@dataclass(frozen=True)
class Cohort:
    """The images of all sites, with equal channels and size."""

    sites: dict[str, Images]
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Images that were left out, each with the reason."""
    extra_sites: frozenset[str] = frozenset()
    """Sites that come from an extra manifest, such as that of a synthetic set."""

    @property
    def channels(self) -> int:
        return next(iter(self.sites.values())).channels

    @property
    def size(self) -> tuple[int, ...]:
        return next(iter(self.sites.values())).space

    @property
    def spatial_dims(self) -> int:
        return len(self.size)

    def split(self, name: str) -> dict[str, Images]:
        """The images of one split, by site; sites without one are omitted."""
        parts = {site: images.select(name) for site, images in self.sites.items()}
        return {site: images for site, images in parts.items() if len(images)}

    def held_out(self) -> dict[str, Images]:
        """All images that are not trained on, by site; sites without one are omitted."""
        parts = {site: images.take((images.splits != "train").nonzero()[0]) for site, images in self.sites.items()}
        return {site: images for site, images in parts.items() if len(images)}


def join_cohorts(cohort: Cohort, extra: Cohort) -> Cohort:
    """The sites of both; those of `extra` become extra sites.

    Classes are matched by name. No patient of one is a patient of the other.

    Raises:
        InputError: Both have a site of the same name, or their images differ in channels or size.
    """
    if duplicates := sorted(cohort.sites.keys() & extra.sites.keys()):
        raise InputError(f"two manifests have a site {duplicates[0]!r}; rename one of them")
    if (cohort.channels, cohort.size) != (extra.channels, extra.size):
        shapes = [f"{c.channels} x {' x '.join(map(str, c.size))}" for c in (cohort, extra)]
        raise InputError(f"sites of one run need images of one shape, got {shapes[0]} and {shapes[1]}")
    classes = tuple(sorted({*cohort.classes, *extra.classes}))
    first_free = 1 + max((int(images.patients.max(initial=0)) for images in cohort.sites.values()), default=0)
    sites = {name: _relabelled(images, cohort.classes, classes, 0) for name, images in cohort.sites.items()}
    sites |= {name: _relabelled(images, extra.classes, classes, first_free) for name, images in extra.sites.items()}
    extra_sites = frozenset({*cohort.extra_sites, *extra.sites})
    return Cohort(sites, classes, cohort.warnings + extra.warnings, cohort.skipped + extra.skipped, extra_sites)


def with_classes(cohort: Cohort, classes: Sequence[str]) -> Cohort:
    """The cohort with `classes`, which contain all of its own; labels are matched by name."""
    sites = {site: _relabelled(images, cohort.classes, classes, 0) for site, images in cohort.sites.items()}
    return replace(cohort, classes=tuple(classes), sites=sites)


def _relabelled(images: Images, before: Sequence[str], after: Sequence[str], first_patient: int) -> Images:
    numbers = torch.tensor([*(after.index(name) for name in before), -1])
    known = None if images.all_labels is None else numbers[images.all_labels]
    return replace(images, labels=numbers[images.labels], all_labels=known, patients=images.patients + first_patient)
