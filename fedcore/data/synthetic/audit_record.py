"""`audit.json`: the figures of a synthetic set's audit, and the two verdicts that follow from them.

The record contains digests of the set, of its generator and of the images it was compared with. Whoever reads it
computes the digest of the set and both verdicts again. It is not signed: whoever may write to all the files can write
another consistent record. Each site's own audit log lists the sets it was asked about.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.data.synthetic.release_criteria import ReleaseCriteria, Verdict
from fedcore.errors import InputError
from fedcore.files.reading import parse_json, read_utf8

AUDIT = "audit.json"
"""Written by an audit next to the manifest of a set, and copied by a release."""


Figures = dict[str, float | None]


@dataclass(frozen=True)
class AuditRecord:
    """The content of `audit.json`."""

    set: str
    """Digest of the set, see `fedcore.data.synthetic.synthetic_set.digest_of`."""
    generator: str
    """Digest of its generator, as in set.json."""
    data: str
    """Fingerprint of the images that the generator was trained on and that the set was compared with: pixels, masks,
    labels, splits and patients of all of them (`fedcore.data.fingerprint`)."""
    images: int
    """Number of audited images."""
    left_out: list[int]
    """Numbers of images that are not to be released."""
    copies: dict[str, list[str]]
    """Images that are too close to a training image, and the sites that found it."""
    groups: dict[str, dict[str, int]]
    """`images`, `copies` and `left_out`: counts for `all`, each `class X` and each requested `site X`."""
    missing_classes: list[str]
    """Requested classes of which the set has no image."""
    sites: dict[str, dict[str, float]]
    of_set: dict[str, float]
    """Fractions of the set that are `near_duplicates` or `blank`, and its `ms_ssim`."""
    quality: dict[str, Figures]
    """Frechet distances to training images, of all images, by class and by site, and those of held-out images."""
    encoder: str | None
    """SHA-256 of its weights."""
    label_fraction: float | None = None
    """Fraction of the patients whose labels the generator learned from; None: unknown."""
    released: str | None = None
    """Digest of the released set, whose files differ."""
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    """Options of the audit, to repeat it."""

    @property
    def safe(self) -> Verdict:
        return ReleaseCriteria().safe(self.groups, self.sites)

    @property
    def useful(self) -> Verdict:
        return ReleaseCriteria().useful(self.sites, self.of_set, tuple(self.missing_classes))

    def as_dict(self) -> dict[str, Any]:
        """As in the file, with the verdicts and a digest, but without `options`, which contain paths."""
        found = dataclasses.asdict(self) | {"safe": _plain(self.safe), "useful": _plain(self.useful)}
        del found["options"]
        return with_digest(found)

    @classmethod
    def read(cls, folder: Path) -> AuditRecord:
        """The record in the folder of a set.

        Raises:
            InputError: There is none, it is incomplete, or its parts contradict one another.
        """
        path = folder / AUDIT
        try:
            found = parse_json(read_utf8(path))
            derived = {name: found.pop(name) for name in ("safe", "useful", "sha256")}
            record = cls(**found)
            wrong = record._contradictions(derived)
        except OSError as e:
            raise InputError(f"{path} is missing") from e
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as e:
            raise InputError(f"{path} is not a complete record of an audit ({type(e).__name__})") from e
        if wrong:
            raise InputError(f"{path} contradicts itself: {wrong[0]}")
        return record

    def _contradictions(self, derived: Mapping[str, Any]) -> list[str]:
        """Properties of every record that an audit writes, which this one lacks."""
        whole, copied = self.groups["all"], sum(site.get("copies_by_pixels", 0.0) for site in self.sites.values())
        parts = [n for name, n in self.groups.items() if name.startswith("class ")]
        checks = {
            "a digest is missing": all(isinstance(d, str) and d for d in (self.set, self.generator, self.data)),
            "no site audited it": bool(self.sites),
            "the number of images": whole["images"] == self.images > 0,
            "the number of copies": whole["copies"] == len(self.copies),
            "the number of copies at the sites": bool(self.copies) or not copied,
            "the number of images left out": whole["left_out"] == len(set(self.left_out)),
            "its classes": all(sum(n[key] for n in parts) == whole[key] for key in whole),
            "a site's number of images": all(
                figures["training_images"] >= 1 and figures["held_out_images"] >= 0 for figures in self.sites.values()
            ),
            "its verdicts": (derived["safe"], derived["useful"]) == (_plain(self.safe), _plain(self.useful)),
            "its digest": derived["sha256"] == self.as_dict()["sha256"],
        }  # fmt: skip
        return [what for what, holds in checks.items() if not holds]


def with_digest(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with a digest of all but its options."""
    found = {key: value for key, value in record.items() if key not in ("options", "sha256")}
    return {**record, "sha256": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()}


def _plain(verdict: Verdict) -> dict[str, Any]:
    """Lists instead of tuples, as JSON returns."""
    return {"answer": verdict.answer, "reasons": list(verdict.reasons), "not_measured": list(verdict.not_measured)}
