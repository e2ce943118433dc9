"""Synthetic sets as training data: their audit status, and mixing a set into every batch of every site."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.data.cohort import Cohort, join_cohorts
from fedcore.data.dataset import AddedImages
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.errors import InputError

SITE = "synthetic"
"""The site of all images in the manifest of a synthetic set."""
SETTINGS = "set.json"
"""How a set was generated; a release has none."""


@dataclass(frozen=True)
class Synthetic:
    """A synthetic set that is mixed into every training batch of every site.

    Each batch takes other images of the set, so that a site with few images uses all of a large set. The weight of a
    site in an average stays its number of own images. As a site of its own (`data.extra_manifests`) a large set would
    dominate the average.
    """

    manifest: str
    """Path of the set's manifest.csv."""
    fraction: float = 0.5
    """Fraction of a batch that is synthetic, in (0, 1]. Synthetic images are added to visit.batch_size real ones: 0.5
    adds as many. With 1 they replace the real ones: train on synthetic images, test on real ones (TSTR)."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.synthetic.fraction must lie in (0, 1], got {self.fraction}")

    def add_to(self, cohort: Cohort, synthetic: Cohort) -> Cohort:
        """`cohort` with the training images of `synthetic` as added images of every site; classes are matched by name.

        Raises:
            InputError: `synthetic` has several sites or no training image, or its images differ in channels or size.
        """
        both = join_cohorts(cohort, synthetic)
        found = list(synthetic.sites)
        if len(found) > 1:
            raise InputError(
                f"data.synthetic needs a set of one site, {self.manifest} has {len(found)} ({', '.join(found[:3])}, "
                "...); use data.extra_manifests to add sites"
            )
        images = both.sites[found[0]].select("train")
        if not len(images):
            raise InputError(f"data.synthetic: {self.manifest} has no image whose split is train")
        added = AddedImages(images, self.fraction)
        sites = {name: replace(both.sites[name], added=added) for name in cohort.sites}
        return replace(both, sites=sites, extra_sites=cohort.extra_sites)


def digest_of(manifest: Path) -> str:
    """SHA-256 of a set: of its manifest, its `set.json` if it has one, and all images and masks in the manifest.

    Raises:
        InputError: A file is missing or cannot be read.
    """
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            names = [row[key] for row in csv.DictReader(file) for key in ("image", "mask") if row.get(key)]
        settings = manifest.parent / SETTINGS
        paths = [manifest, *([settings] if settings.exists() else []), *(manifest.parent / name for name in names)]
        digest = hashlib.sha256(f"{len(paths)} {len(names)}".encode())
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    except (OSError, csv.Error, UnicodeDecodeError) as e:
        raise InputError(f"{manifest} or a file in it cannot be read ({type(e).__name__})") from e
    return digest.hexdigest()


@dataclass(frozen=True)
class AuditStatus:
    """Whether the audit of a set allows to train on it."""

    problem: str = ""
    """Why it does not; empty if it does."""
    warning: str = ""
    """What the run reports if it does."""


def audit_status(manifest: Path, sites: Iterable[str]) -> AuditStatus:
    """Of the images of `manifest`, which are of `sites`; an empty status for other images than those of a set."""
    if SITE not in sites:
        return AuditStatus()
    try:
        record = AuditRecord.read(manifest.parent)
        digest = digest_of(manifest)
    except InputError as e:
        return AuditStatus(f"a synthetic set without a valid audit: {_without_path(e, manifest.parent)}")
    if digest != (record.released or record.set):
        return AuditStatus("a synthetic set that is not the audited one: its files have changed since the audit")
    if record.safe.answer != "yes":
        return AuditStatus("a synthetic set that failed its privacy check")
    return AuditStatus(warning=". ".join(_warnings(record)))


def _warnings(record: AuditRecord) -> Iterator[str]:
    if record.useful.answer != "yes":
        reasons = "; ".join(record.useful.reasons)
        yield f"the synthetic set is used for training; fit for use: {record.useful.answer}, because {reasons}"
    if record.label_fraction is not None:
        yield (
            f"the generator of the synthetic set learned from {record.label_fraction:.3g} of the labels; do not "
            "compare with runs on fewer labels that use no set"
        )


def _without_path(error: InputError, folder: Path) -> str:
    """Its text without the path of the set, which the caller reports."""
    return str(error).replace(f"{folder}/", "")
