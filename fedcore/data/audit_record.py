"""`audit.json`: what the sites measured of a synthetic set, of which set, and the two verdicts that follow.

The record names by digests the set, its generator and the images it was compared with. Whoever reads it computes the
digest of the set and both verdicts anew. It carries no signature: who may write to all the files can write another
record that fits. Each site's own audit file lists the sets it was asked about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.data.gate import Gate, Verdict
from fedcore.errors import InputError
from fedcore.reading import json_of, text_of

AUDIT = "audit.json"
"""What an audit leaves beside the manifest of a set, and a release takes along."""


Figures = dict[str, float | None]


@dataclass(frozen=True)
class AuditRecord:
    """What `audit.json` holds."""

    set: str
    """Digest of the set, see `fedcore.data.synthetic.digest_of`."""
    generator: str
    """Digest of what drew it, as set.json names it."""
    data: str
    """Fingerprint of the images that the generator was trained on and that the set was compared with: labels, splits
    and patients of all of them, and the pixels of 16 a site (`fedcore.data.describe`)."""
    images: int
    """How many were looked at."""
    left_out: list[int]
    """Numbers of images that are not to be released."""
    copies: dict[str, list[str]]
    """Images that are too near to a trained one, and the sites that say so."""
    groups: dict[str, dict[str, int]]
    """`images`, `copies` and `left_out`: how many of `all`, of each `class X` and of each imitated `site X`."""
    lacking: list[str]
    """Classes that were asked for and of which the set has no image."""
    sites: dict[str, dict[str, float]]
    own: dict[str, float]
    """Parts of the set that are `repeated` or `constant`, and its `likeness`."""
    quality: dict[str, Figures]
    """Frechet distances to trained images of all images, by class and by site, and those of held-out images."""
    encoder: str | None
    """SHA-256 of its weights."""
    released: str | None = None
    """Digest of the released set, whose files are others."""
    asked: dict[str, Any] = field(default_factory=dict, compare=False)
    """What the audit was asked with, to ask again."""

    @property
    def safe(self) -> Verdict:
        return Gate().safe(self.groups, self.sites)

    @property
    def useful(self) -> Verdict:
        return Gate().useful(self.sites, self.own, tuple(self.lacking))

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it, with the verdicts and without the paths it was asked with."""
        found = dataclasses.asdict(self) | {"safe": _plain(self.safe), "useful": _plain(self.useful)}
        del found["asked"]
        return found

    @classmethod
    def read(cls, folder: Path) -> AuditRecord:
        """The record in the folder of a set.

        Raises:
            InputError: There is none, it lacks something, or its parts contradict one another.
        """
        path = folder / AUDIT
        try:
            found = json_of(text_of(path))
            verdicts = {name: found.pop(name) for name in ("safe", "useful")}
            record = cls(**found)
            wrong = record._contradictions(verdicts)
        except OSError as e:
            raise InputError(f"{path} is missing") from e
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as e:
            raise InputError(f"{path} is no whole record of an audit ({type(e).__name__})") from e
        if wrong:
            raise InputError(f"{path} contradicts itself: {wrong[0]}")
        return record

    def _contradictions(self, verdicts: Mapping[str, Any]) -> list[str]:
        """What cannot hold of a record that an audit wrote."""
        whole, copied = self.groups["all"], sum(told.get("copies_by_pixels", 0.0) for told in self.sites.values())
        parts = [n for name, n in self.groups.items() if name.startswith("class ")]
        checks = {
            "a digest is missing": all(isinstance(d, str) and d for d in (self.set, self.generator, self.data)),
            "no site looked at it": bool(self.sites),
            "the images it counts": whole["images"] == self.images > 0,
            "the copies it counts": whole["copies"] == len(self.copies),
            "the copies that sites count": bool(self.copies) or not copied,
            "the images it left out": whole["left_out"] == len(set(self.left_out)),
            "its classes": all(sum(n[key] for n in parts) == whole[key] for key in whole),
            "a site's number of images": all(t["trained"] >= 1 and t["held_out"] >= 0 for t in self.sites.values()),
            "its verdicts": verdicts == {"safe": _plain(self.safe), "useful": _plain(self.useful)},
        }  # fmt: skip
        return [what for what, holds in checks.items() if not holds]


def _plain(verdict: Verdict) -> dict[str, Any]:
    """Lists for tuples, as JSON gives back."""
    return {"answer": verdict.answer, "because": list(verdict.because), "not_measured": list(verdict.not_measured)}
