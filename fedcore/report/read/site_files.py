"""Which sites of a run kept a file of figures, and what a damaged one raises when it is read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, RuntimeError, MemoryError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""Raised by a damaged file, or by one of another kind."""


def figure_files(folder: Path, sites: Iterable[str], name: str) -> dict[str, Path]:
    """The files of that name by site, of the sites that kept one.

    `folder` is that of a run, or a site's own: then there is one site.
    """
    if (folder / name).is_file():
        return dict.fromkeys(sites, folder / name)
    # Matched by name, never joined to a path: a site called ../x must not lead out of the run folder.
    kept = {path.parent.name: path for path in folder.glob(f"sites/*/{name}")}
    return {site: kept[site] for site in sites if site in kept}
