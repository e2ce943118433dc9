"""Decodes every image once: one memory-mapped array a site, found again by the content of the files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedcore.data.cache.content import Memo, key_of
from fedcore.data.cache.growing_array import GrowingArray
from fedcore.data.duplicates import pixel_digest
from fedcore.data.io.readers import ImageError
from fedcore.data.manifest.manifest import Row
from fedcore.data.preprocess.clipping import Clipping
from fedcore.data.preprocess.decode import UNLABELED, Decoded, Decoding, decode
from fedcore.errors import InputError, InputErrors

VERSION = 8
"""Part of the key: raise it when decoding or the layout changes."""
Progress = Callable[[int, int], None]
Faulty = tuple[tuple[int, str], ...]
_THREADS = min(8, max(2, os.cpu_count() or 2))
_NOT_WRITABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
}
_DECODERS = ("pylibjpeg", "libjpeg", "openjpeg", "gdcm", "jpeg_ls", "imagecodecs")
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Store:
    """What the cache holds of one site; n counts the images kept."""

    pixels: np.ndarray
    """(n, c, *space) float16, mapped from the file."""
    masks: np.ndarray | None
    """(n, *space) uint8, 255 where unlabelled; None where no row has a mask."""
    kept: tuple[int, ...]
    """For each image the place of its row among the site's rows; the slices of a volume share one."""
    positions: np.ndarray | None
    """(n,) float32 in [0, 1], of slices; None of whole images."""
    spacing: np.ndarray | None
    """(n, d) float32, mm between pixels, NaN where a file does not say it; None where no file does."""
    constant: tuple[int, ...]
    """Places of rows of one single value (kept, all -1 by percentiles, unless they were cut into slices)."""
    empty: int
    """Slices left out, since they hold one single value."""
    clipping: tuple[Clipping, ...]
    """Of each row that was neither left out nor constant."""
    faults: Faulty
    """Of the rows left out: place and reason."""
    digests: tuple[str, ...]
    """A row's decoded pixels by their digest: equal ones are one image, whatever its files are; '' of one that was left
    out or holds one single value."""


def default_folder() -> Path:
    """`$FEDPRETRAIN_CACHE`, else `~/.cache/fedpretrain`."""
    return Path(os.environ.get("FEDPRETRAIN_CACHE") or Path.home() / ".cache" / "fedpretrain")


def decode_sites(
    sites: Mapping[str, Sequence[Row]],
    how: Decoding,
    folder: Path,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
) -> dict[str, Store]:
    """Every site's images, from the cache where its files and settings are unchanged.

    `progress` is called with (images done, images to decode). A site with faults is kept only by "skip".

    Raises:
        InputErrors: with "stop", naming site, row and file of every image of every site that cannot be used.
        InputError: the disk is full or the folder cannot be written; no half cache is left.
    """
    with open_cache(folder):
        _sweep(folder)
        memo = Memo(folder / "known.json")
        places = {site: _place(folder, rows, how, memo) for site, rows in sites.items()}
        memo.save()
        stores = {site: _usable(place, on_error) for site, place in places.items()}
        missing = [site for site, store in stores.items() if store is None]
        tally = _Tally(sum(len(sites[site]) for site in missing), progress)
        faults: list[str] = []
        for site in missing:
            found = _write(places[site], sites[site], how, on_error == "skip", tally)
            faults += told(site, sites[site], found)
    if faults and on_error == "stop":
        raise InputErrors("images", faults, "Mend or remove these rows, or set on_error to skip to go on without them.")
    opened = {site: stores[site] or _opened(place) for site, place in places.items()}
    return {site: store for site, store in opened.items() if store is not None}


def told(site: str, rows: Sequence[Row], faulty: Faulty, names: bool = True) -> list[str]:
    """The faults with the row and, where it may be told, the name of the file (which may name a patient)."""
    where = [f", {rows[at].image.name}" if names else "" for at, _ in faulty]
    return [f"site '{site}', row {rows[at].number}{w}: {text}" for (at, text), w in zip(faulty, where, strict=True)]


@dataclass
class _Tally:
    total: int
    progress: Progress | None
    done: int = field(default=0)

    def count(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


@contextmanager
def open_cache(folder: Path) -> Iterator[None]:
    """Makes the folder, for its owner's eyes alone (patients' images); tells of a full or forbidden disk."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        advice = "make room, or name another folder with data.cache or FEDPRETRAIN_CACHE"
        raise InputError(f"the cache {folder} cannot be written ({error.strerror}); {advice}") from error


def _sweep(folder: Path) -> None:
    """Removes what killed runs left; a younger folder may belong to a run that still decodes."""
    for left in folder.glob(".decoding-*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _place(folder: Path, rows: Sequence[Row], how: Decoding, memo: Memo) -> Path:
    """Named by content alone, so a site may be renamed; a new decoder may read what was a fault before."""
    synthetic = [at for at, row in enumerate(rows) if row.synthetic]
    return folder / key_of([memo.digest(row) for row in rows], how, synthetic, decoders(), VERSION)


def decoders() -> list[bool]:
    """Which packages are installed that decode what is a fault without them."""
    return [find_spec(name) is not None for name in _DECODERS]


def _usable(place: Path, on_error: str) -> Store | None:
    """A store that lacks images is looked at again before its faults stop a run."""
    store = _opened(place)
    if store is not None and store.faults and on_error == "stop":
        shutil.rmtree(place)
        return None
    return store


def _opened(place: Path) -> Store | None:
    if not place.is_dir():
        return None
    index = json.loads((place / "index.json").read_text(encoding="utf-8"))
    masks = place / "masks.npy"
    return Store(
        pixels=np.load(place / "images.npy", mmap_mode="r", allow_pickle=False),
        masks=np.load(masks, mmap_mode="r", allow_pickle=False) if masks.exists() else None,
        kept=tuple(index["kept"]),
        positions=np.array(index["positions"], np.float32) if index["positions"] else None,
        spacing=_spacing(index["spacing"]),
        constant=tuple(index["constant"]),
        empty=index["empty"],
        clipping=tuple(Clipping(*each) for each in index["clipping"]),
        faults=tuple((place, text) for place, text in index["faults"]),
        digests=tuple(index["digests"]),
    )


def _spacing(found: Sequence[Sequence[float] | None]) -> np.ndarray | None:
    dims = next((len(one) for one in found if one), 0)
    unknown = [np.nan] * dims
    return np.array([one or unknown for one in found], np.float32) if dims else None


def _write(place: Path, rows: Sequence[Row], how: Decoding, skip: bool, tally: _Tally) -> Faulty:
    """Decodes one site into a folder beside, and renames that when it is whole; gives the faults."""
    with tempfile.TemporaryDirectory(prefix=".decoding-", dir=place.parent, ignore_cleanup_errors=True) as name:
        half = Path(name) / "site"
        half.mkdir()
        index = _fill(half, rows, how, tally)
        (half / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if skip or not index["faults"]:
            _publish(half, place)
    return tuple((place, text) for place, text in index["faults"])


def _fill(half: Path, rows: Sequence[Row], how: Decoding, tally: _Tally) -> dict[str, Any]:
    """Writes the arrays; gives the index."""
    index: dict[str, Any] = {"kept": [], "positions": [], "spacing": [], "constant": [], "empty": 0}
    index |= {"clipping": [], "faults": [], "digests": [""] * len(rows)}
    with ExitStack() as files:
        images = files.enter_context(GrowingArray(half / "images.npy", (how.channels, *how.size), np.float16))
        if with_masks := any(row.mask for row in rows):
            masks = files.enter_context(GrowingArray(half / "masks.npy", how.size, np.uint8))
        for place, found in enumerate(_decoded(rows, how)):
            tally.count()
            if isinstance(found, str):
                index["faults"].append((place, found))
                continue
            images.extend(found.pixels)
            if with_masks:
                unlabeled = np.full((len(found.pixels), *how.size), UNLABELED, np.uint8)
                masks.extend(unlabeled if found.masks is None else found.masks)
            index["kept"] += [place] * len(found.pixels)
            index["positions"] += [] if found.positions is None else found.positions.tolist()
            index["spacing"] += [found.spacing] * len(found.pixels)
            index["constant"] += [place] * found.constant
            index["empty"] += found.empty
            index["clipping"] += [] if found.constant else [found.clipping]
            if len(found.pixels) and not found.constant:
                index["digests"][place] = pixel_digest(found.pixels)
    return index


def _decoded(rows: Sequence[Row], how: Decoding) -> Iterator[Decoded | str]:
    """In the rows' order, a few at a time: memory stays flat whatever the number of images."""

    def attempt(row: Row) -> Decoded | str:
        try:
            return decode(row, how)
        except ImageError as fault:
            return str(fault)

    step = 8 * _THREADS
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(rows), step):
            yield from pool.map(attempt, rows[start : start + step])


def _publish(half: Path, place: Path) -> None:
    """One rename makes it visible; where another run was first, its equal stays."""
    try:
        half.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
