"""`audit.json`: what the sites measured of a synthetic set, of which set, and the two verdicts that follow.

The record names by digests the set, its generator and the images it was compared with. Whoever reads it computes the
digest of the set and both verdicts anew. It carries no signature: who may write to all the files can write another
record that fits. Each site's own audit file lists the sets it was asked about.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.data.synthetic.release_criteria import Gate, Verdict
from fedcore.errors import InputError
from fedcore.files.reading import parse_json, read_utf8

AUDIT = "audit.json"
"""What an audit leaves beside the manifest of a set, and a release takes along."""


Figures = dict[str, float | None]


@dataclass(frozen=True)
class AuditRecord:
    """What `audit.json` holds."""

    set: str
    """Digest of the set, see `fedcore.data.synthetic.synthetic_set.digest_of`."""
    generator: str
    """Digest of what drew it, as set.json names it."""
    data: str
    """Fingerprint of the images that the generator was trained on and that the set was compared with: pixels, masks,
    labels, splits and patients of all of them (`fedcore.data.describe`)."""
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
    label_fraction: float | None = None
    """Part of the patients whose labels the generator learned from; None: unknown."""
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
        """As JSON holds it, with the verdicts, a digest of all this, and without the paths it was asked with."""
        found = dataclasses.asdict(self) | {"safe": _plain(self.safe), "useful": _plain(self.useful)}
        del found["asked"]
        return with_digest(found)

    @classmethod
    def read(cls, folder: Path) -> AuditRecord:
        """The record in the folder of a set.

        Raises:
            InputError: There is none, it lacks something, or its parts contradict one another.
        """
        path = folder / AUDIT
        try:
            found = parse_json(read_utf8(path))
            told = {name: found.pop(name) for name in ("safe", "useful", "sha256")}
            record = cls(**found)
            wrong = record._contradictions(told)
        except OSError as e:
            raise InputError(f"{path} is missing") from e
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as e:
            raise InputError(f"{path} is no whole record of an audit ({type(e).__name__})") from e
        if wrong:
            raise InputError(f"{path} contradicts itself: {wrong[0]}")
        return record

    def _contradictions(self, told: Mapping[str, Any]) -> list[str]:
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
            "its verdicts": (told["safe"], told["useful"]) == (_plain(self.safe), _plain(self.useful)),
            "its digest": told["sha256"] == self.as_dict()["sha256"],
        }  # fmt: skip
        return [what for what, holds in checks.items() if not holds]


def with_digest(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an audit, with a digest of it all but of what it was asked with."""
    found = {key: value for key, value in told.items() if key not in ("asked", "sha256")}
    return {**told, "sha256": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()}


def _plain(verdict: Verdict) -> dict[str, Any]:
    """Lists for tuples, as JSON gives back."""
    return {"answer": verdict.answer, "because": list(verdict.because), "not_measured": list(verdict.not_measured)}
