"""Synthetic sets as data: whether a set passed its audit, and a set that joins every batch of every site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.data.images import Cohort, Companions, joined
from fedcore.errors import InputError
from fedcore.reading import json_of, text_of

AUDIT = "audit.json"
"""What an audit leaves beside the manifest of a set, and a release takes along; it says whether the set `passes`."""
SITE = "synthetic"
"""What the manifest of a drawn set says where its images come from."""


@dataclass(frozen=True)
class Synthetic:
    """A synthetic set that joins every training batch of every site.

    Each batch takes new images of the set, so all of a large set serve a site with few images of its own. The weight
    of a site in an average stays the number of its own images. As a site of its own (`data.further`) a large set
    outweighs the hospitals.
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
                "...); data.further takes sites"
            )
        images = both.sites[found[0]].select("train")
        if not len(images):
            raise InputError(f"data.synthetic: {self.manifest} has no image whose split is train")
        companions = Companions(images, self.share)
        sites = {name: replace(both.sites[name], companions=companions) for name in cohort.sites}
        return replace(both, sites=sites, further=cohort.further)


def doubts(manifest: str, sites: Iterable[str]) -> str | None:
    """What speaks against training on the set of `manifest`; nothing where it passed, or is none by its `sites`."""
    if SITE not in sites:
        return None
    try:
        told = json_of(text_of(Path(manifest).parent / AUDIT))
        passes = told["passes"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return "a synthetic set that nobody has audited"
    return None if passes else "a synthetic set that did not pass its audit"
