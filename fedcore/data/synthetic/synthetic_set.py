"""Synthetic sets as data: whether the audit of a set allows it, and a set that joins every batch of every site."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.data.dataset import Cohort, Companions, joined
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.errors import InputError

SITE = "synthetic"
"""What the manifest of a drawn set says where its images come from."""
SETTINGS = "set.json"
"""How a set was asked for; a release has none."""


@dataclass(frozen=True)
class Synthetic:
    """A synthetic set that joins every training batch of every site.

    Each batch takes new images of the set, so all of a large set serve a site with few images of its own. The weight
    of a site in an average stays the number of its own images. As a site of its own (`data.extra_manifests`) a large
    set outweighs the hospitals.
    """

    manifest: str
    """Path of the set's manifest.csv."""
    share: float = 0.5
    """Part of a batch that is drawn, in (0, 1]. They come on top of visit.batch_size: 0.5 are as many as real ones.
    With 1 they take the place of the real ones: trained on drawn images, tested on real ones (TSTR)."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"data.synthetic.share must lie in (0, 1], got {self.share}")

    def join(self, cohort: Cohort, drawn: Cohort) -> Cohort:
        """Gives every site of `cohort` the training images of `drawn` as companions; classes are matched by name.

        Raises:
            InputError: `drawn` has several sites or no training image, or its images differ in channels or size.
        """
        both = joined(cohort, drawn)
        found = list(drawn.sites)
        if len(found) > 1:
            raise InputError(
                f"data.synthetic takes a set of one site, {self.manifest} has {len(found)} ({', '.join(found[:3])}, "
                "...); data.extra_manifests takes sites"
            )
        images = both.sites[found[0]].select("train")
        if not len(images):
            raise InputError(f"data.synthetic: {self.manifest} has no image whose split is train")
        companions = Companions(images, self.share)
        sites = {name: replace(both.sites[name], companions=companions) for name in cohort.sites}
        return replace(both, sites=sites, extra_sites=cohort.extra_sites)


def digest_of(manifest: Path) -> str:
    """SHA-256 over the manifest of a set, its `set.json` if it has one, and every image and mask that the manifest
    names; another one when any of these changes.

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
        raise InputError(f"{manifest} or a file that it names cannot be read ({type(e).__name__})") from e
    return digest.hexdigest()


@dataclass(frozen=True)
class Standing:
    """What the audit of a set says to somebody who wants to train on it."""

    doubt: str = ""
    """Why it must not be trained on; empty where nothing speaks against it."""
    note: str = ""
    """What the run says of it all the same."""


def standing(manifest: Path, sites: Iterable[str]) -> Standing:
    """Of the set of `manifest`, whose images are of `sites`; of other images than a set's there is nothing to say."""
    if SITE not in sites:
        return Standing()
    try:
        record = AuditRecord.read(manifest.parent)
        digest = digest_of(manifest)
    except InputError as e:
        return Standing(f"a synthetic set without an audit that can be relied on: {_without(e, manifest.parent)}")
    if digest != (record.released or record.set):
        return Standing("a synthetic set that is not the one that was audited: its files have changed since")
    if record.safe.answer != "yes":
        return Standing("a synthetic set that failed its privacy check")
    return Standing(note=". ".join(_notes(record)))


def _notes(record: AuditRecord) -> Iterator[str]:
    """What the page of a run says of the set that it trains on."""
    if record.useful.answer != "yes":
        why = "; ".join(record.useful.reasons)
        yield f"the synthetic set is trained on, fit for use: {record.useful.answer}, because {why}"
    if record.label_fraction is not None:
        yield (
            f"the generator of the synthetic set learned from {record.label_fraction:.3g} of the labels; do not "
            "compare with runs on fewer labels that use no set"
        )


def _without(error: InputError, folder: Path) -> str:
    """Its text without the path of the set, which the caller names."""
    return str(error).replace(f"{folder}/", "")
