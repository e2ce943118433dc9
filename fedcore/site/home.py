"""The folder of a hospital: its settings, the recipes that it approved, and what it keeps of each run.

site.yaml                    its settings (fedcore.site.settings)
proposed/<digest>.yaml       recipes that the server proposed
approved/<digest>.yaml       recipes that a person approved; no other recipe is run
audit.jsonl, errors.jsonl    proposals, approvals and refusals that belong to no run
runs/<run>/                  of one run: audit.jsonl, errors.jsonl, memory/, page.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import InputError, Refused
from fedcore.site.settings import SETTINGS, SiteSettings, load_settings

_RUN = re.compile(r"[0-9a-z_-]{1,64}")


@dataclass(frozen=True)
class SiteHome:
    """Paths in the folder of a site; nothing is created before it is needed."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> SiteHome:
        """Raises InputError where this is not the folder of a site."""
        if not (path / SETTINGS).is_file():
            raise InputError(
                f"{path} is not the folder of a site: it holds no {SETTINGS}; change to the site's folder, or name it "
                "with --home FOLDER"
            )
        return cls(path.resolve())

    def settings(self) -> SiteSettings:
        """Raises InputError, or InputErrors, where `site.yaml` must be corrected."""
        return load_settings(self.path)

    @property
    def proposed(self) -> Path:
        return self.path / "proposed"

    @property
    def approved(self) -> Path:
        return self.path / "approved"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def run(self, name: str) -> Path:
        """Folder of a run, whose name comes from the server.

        Raises:
            Refused: It is no name of a run, or would lead out of the folder.
        """
        if not _RUN.fullmatch(name):
            raise Refused("the name of the run must have 1 to 64 of the characters a-z, 0-9, - and _")
        folder = self.runs / name
        if self.runs.is_symlink() or folder.is_symlink():
            raise Refused("the folder of the run is a symbolic link at this site; replace it by a folder")
        return folder

    def run_names(self) -> list[str]:
        """Runs that this site has taken part in, the latest last."""
        found = [path for path in self.runs.iterdir() if path.is_dir()] if self.runs.is_dir() else []
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def private_folder(path: Path) -> Path:
    """Creates a folder that only its owner can read."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
