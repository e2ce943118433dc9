"""The files of arrays that sites keep in their own folders for the page."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedcore.data.io import npz
from fedcore.data.io.limits import MAX_KEPT_BYTES, require_small

UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, RuntimeError, MemoryError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What a damaged file raises, or one that holds something else."""


def holders(folder: Path, sites: Iterable[str], file: str) -> list[str]:
    """The sites that left such a file."""
    # Matched by name, never joined to a path: a site called ../x must not lead out of the run folder.
    holding = {path.parent.name for path in folder.glob(f"sites/*/{file}")}
    return [site for site in sites if site in holding]


@contextmanager
def kept(folder: Path, site: str, file: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of the file; reading one may raise any of UNREADABLE."""
    path = folder / "sites" / site / file
    with zipfile.ZipFile(path) as archive:
        require_small(archive, MAX_KEPT_BYTES, file)
    npz.shapes(path)
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as held:
        yield held
