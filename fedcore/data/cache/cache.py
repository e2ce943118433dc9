"""The cache of decoded images: every image is decoded once, and found again by the content of its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fedcore.data.cache.cached_site import CachedSite, read_site
from fedcore.data.cache.file_index import FileIndex, cache_key
from fedcore.data.cache.folder import open_cache, remove_stale
from fedcore.data.cache.write_site import write_site
from fedcore.data.manifest.row import Row, row_messages
from fedcore.data.preprocess.decode import Decoding
from fedcore.errors import InputErrors

VERSION = 8
"""Part of the key: raise it when decoding or the layout changes."""
Progress = Callable[[int, int], None]
"""Called with (images done, images to decode)."""
_DECODERS = ("pylibjpeg", "libjpeg", "openjpeg", "gdcm", "jpeg_ls", "imagecodecs")


def decode_sites(
    sites: Mapping[str, Sequence[Row]],
    how: Decoding,
    folder: Path,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
) -> dict[str, CachedSite]:
    """Every site's images, from the cache if its files and settings are unchanged.

    A site with unreadable images is kept in the cache only with "skip".

    Args:
        sites: Rows by site.
        how: How files become arrays.
        folder: The cache.
        on_error: What to do with images that cannot be read.
        progress: Called after each decoded image.

    Raises:
        InputErrors: With "stop", every image that cannot be used, with site, row and file.
        InputError: The disk is full or the folder cannot be written; no incomplete cache is left.
    """
    with open_cache(folder):
        remove_stale(folder)
        index = FileIndex(folder / "known.json")
        places = {site: _place(folder, rows, how, index) for site, rows in sites.items()}
        index.save()
        cached = {site: _usable(place, on_error) for site, place in places.items()}
        missing = [site for site, found in cached.items() if found is None]
        counter = _Counter(sum(len(sites[site]) for site in missing), progress)
        errors: list[str] = []
        for site in missing:
            found = write_site(places[site], sites[site], how, keep_errors=on_error == "skip", decoded=counter.count)
            errors += row_messages(site, sites[site], found, files=True)
    if errors and on_error == "stop":
        raise InputErrors("images", errors, "Fix or remove these rows, or set data.on_error to skip to omit them.")
    read = {site: cached[site] or read_site(place) for site, place in places.items()}
    return {site: found for site, found in read.items() if found is not None}


def installed_decoders() -> list[bool]:
    """Which optional decoder packages are installed: with another one, more images may be readable."""
    return [find_spec(name) is not None for name in _DECODERS]


@dataclass
class _Counter:
    total: int
    progress: Progress | None
    done: int = field(default=0)

    def count(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


def _place(folder: Path, rows: Sequence[Row], how: Decoding, index: FileIndex) -> Path:
    """Named by content alone, so that a renamed site is found; the key contains the installed decoders."""
    synthetic = [at for at, row in enumerate(rows) if row.synthetic]
    return folder / cache_key([index.digest(row) for row in rows], how, synthetic, installed_decoders(), VERSION)


def _usable(place: Path, on_error: str) -> CachedSite | None:
    """None where images were skipped and now must not be: they are decoded again before their errors stop a run."""
    found = read_site(place)
    if found is not None and found.errors and on_error == "stop":
        shutil.rmtree(place)
        return None
    return found
