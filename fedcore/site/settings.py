"""What a hospital sets for itself, in `site.yaml`. Nothing of it can be set by the server or by a recipe."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedcore.config.settings_file import read_settings, settings_of
from fedcore.data.manifest.columns import DEFAULT_COLUMNS, Columns
from fedcore.errors import InputError
from fedcore.files.reading import parse_yaml, read_utf8
from fedcore.files.writing import write_atomically
from fedcore.messages.reveals import Reveals
from fedcore.privacy.policy import Policy
from fedcore.training.visit import ACCELERATORS

SETTINGS = "site.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class SiteSettings:
    """Paths are relative to the folder of `site.yaml`."""

    name: str
    """Name of this site, as in its certificate and in the column `site` of its manifest."""
    manifest: Path | None = None
    """The CSV file that lists the images of this site; null: none yet."""
    columns: Columns = DEFAULT_COLUMNS
    """Names of the manifest's columns."""
    cache: Path | None = None
    """Folder of the decoded images; null: $FEDPRETRAIN_CACHE, else ~/.cache/fedpretrain."""
    on_error: Literal["stop", "skip"] = "stop"
    """An unreadable image ends the request, or is skipped."""
    test_fraction: float = 0.2
    """Fraction of the patients that is held out; only used if the manifest has no column `split`."""
    policy: Policy = Policy()
    """What this site sends."""
    accelerator: str = "auto"
    """Where it trains: auto (a GPU if there is one), cpu or gpu."""
    trust: tuple[str, ...] = ()
    """Python packages, installed here, whose classes recipes may name in addition to those of fedpretrain."""
    synthetic: Path | None = None
    """Manifest of a synthetic set, for recipes that mix one into the training images."""
    allow_unaudited: bool = False
    """Use a synthetic set without a passed privacy check."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                "name must have 1 to 64 letters, digits, - and _, and begin with a letter or a digit, got "
                f"{self.name!r}"
            )
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie in [0, 1), got {self.test_fraction}")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}, got {self.accelerator!r}")

    def recipe_values(self, folder: Path) -> dict[str, Any]:
        """The values that a recipe takes from this site, by full key.

        Args:
            folder: Of `site.yaml`.

        Raises:
            InputError: There is no manifest yet.
        """
        if self.manifest is None:
            raise InputError(
                f"{folder / SETTINGS} names no manifest; run: fedpretrain site data MANIFEST.csv --home {folder}"
            )
        own = {
            "data.manifest": str(folder / self.manifest), "data.columns": dataclasses.asdict(self.columns),
            "data.cache": str(folder / self.cache) if self.cache else None, "data.on_error": self.on_error,
            "data.test_fraction": self.test_fraction, "data.allow_unaudited": self.allow_unaudited,
            "data.synthetic.manifest": str(folder / self.synthetic) if self.synthetic else None,
            "visit.accelerator": self.accelerator,
        }  # fmt: skip
        return own | {"policy": dataclasses.asdict(self.policy) | {"max_level": self.policy.max_level.name}}


def load_settings(folder: Path) -> SiteSettings:
    """Of the site whose folder this is. Raises InputErrors, or InputError, with all that is wrong in the file."""
    return read_settings(SiteSettings, folder / SETTINGS)


def set_data(folder: Path, manifest: Path, level: Reveals | None = None) -> SiteSettings:
    """Writes the manifest, and the policy's level if given, into `site.yaml`; all other lines stay as they are.

    Raises:
        InputError: The file would not be valid with these values; it is unchanged then.
    """
    path = folder / SETTINGS
    text = read_utf8(path)
    text = _with_line(text, r"^manifest:.*$", f"manifest: {json.dumps(str(manifest), ensure_ascii=False)}")
    if level is not None:
        if re.search(r"^policy:[ \t]*[^\s#]", text, re.MULTILINE):
            raise InputError(f"{path} has the group policy on one line; set policy.max_level to {level.name} there")
        text = _with_line(text, r"^policy:.*$", "policy:")
        inside = r"^(policy:\n(?:(?:[ \t].*|#.*)?\n)*?[ \t]+max_level:).*$"
        text, found = re.subn(inside, rf"\1 {level.name}", text, count=1, flags=re.MULTILINE)
        if not found:
            text = text.replace("\npolicy:\n", f"\npolicy:\n  max_level: {level.name}\n", 1)
    try:
        settings = settings_of(SiteSettings, parse_yaml(text), path)
    except ValueError as e:
        raise InputError(f"{path} is not valid YAML: {e}; correct it") from e
    write_atomically(path, text.encode())
    return settings


def settings_text(name: str) -> str:
    """`site.yaml` of a new site, with comments for the people who edit it."""
    return f"""# Settings of this site. They take effect at the next request; the server cannot change them.
# Paths are relative to the folder of this file.

# As in the certificate, and in the column 'site' of the manifest.
name: {name}

# CSV file that lists the images of this site. Set it with: fedpretrain site data MANIFEST.csv
manifest: null

# Names of the columns of the manifest, where they differ from these.
columns: {{image: image, site: site, split: split, label: label, mask: mask, patient: patient, position: position}}

# Folder of the decoded images; null: $FEDPRETRAIN_CACHE, else ~/.cache/fedpretrain. It needs about as much space as the
# images.
cache: null

# An unreadable image: stop (nothing is answered until it is corrected) or skip.
on_error: stop

# Fraction of the patients that is held out for tests; not used if the manifest has a column 'split'.
test_fraction: 0.2

# What this site sends. A recipe that needs more cannot be approved.
policy:
  # WEIGHTS (of models) < STATISTICS (over images, scores too) < FEATURES (of single images) < SAMPLES (images).
  max_level: STATISTICS
  # Whether losses and scores are sent (they are STATISTICS).
  metrics: true
  # Patients that a score or a statistic needs at least.
  min_patients: 10
  # Numbers of images: exact, rounded or withheld.
  counts: exact
  # Audits of synthetic sets that this site answers for each generator.
  audits: 5

# Where it trains: auto (a GPU if there is one), cpu or gpu.
accelerator: auto

# Python packages, installed here, whose classes recipes may name in addition to those of fedpretrain; their code is
# run.
trust: []

# Manifest of a synthetic set, for recipes that mix one into the training images.
synthetic: null

# Whether a synthetic set without a passed privacy check is used.
allow_unaudited: false
"""


def _with_line(text: str, pattern: str, line: str) -> str:
    """The text with the first line of this pattern replaced; where there is none, the line is added at the end."""
    text, found = re.subn(pattern, lambda _: line, text, count=1, flags=re.MULTILINE)
    return text if found else f"{text.rstrip()}\n{line}\n"
