"""Decodes the images of one site into the cache."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.cache.cached_site import RowErrors
from fedcore.data.cache.folder import UNFINISHED
from fedcore.data.cache.growing_array import GrowingArray
from fedcore.data.duplicates import pixel_digest
from fedcore.data.io.error import ImageError
from fedcore.data.manifest.row import Row
from fedcore.data.mask_classes import UNLABELED
from fedcore.data.preprocess.decode import Decoded, Decoding, decode

_THREADS = min(8, max(2, os.cpu_count() or 2))


def write_site(
    place: Path, rows: Sequence[Row], how: Decoding, *, keep_errors: bool, decoded: Callable[[], None]
) -> RowErrors:
    """Decodes one site into a temporary folder and renames it when complete; returns the errors.

    Args:
        place: The site's folder in the cache.
        rows: The site's rows.
        how: How files become arrays.
        keep_errors: Keep the site in the cache even if rows have errors.
        decoded: Called after each row.
    """
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=place.parent, ignore_cleanup_errors=True) as name:
        unfinished = Path(name) / "site"
        unfinished.mkdir()
        index = _write_arrays(unfinished, rows, how, decoded)
        (unfinished / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if keep_errors or not index["faults"]:
            _publish(unfinished, place)
    return tuple((at, text) for at, text in index["faults"])


def _write_arrays(folder: Path, rows: Sequence[Row], how: Decoding, decoded: Callable[[], None]) -> dict[str, Any]:
    """Writes the arrays; returns the index."""
    index: dict[str, Any] = {"kept": [], "positions": [], "spacing": [], "constant": [], "empty": 0}
    index |= {"clipping": [], "faults": [], "digests": [""] * len(rows)}
    with ExitStack() as files:
        images = files.enter_context(GrowingArray(folder / "images.npy", (how.channels, *how.size), np.float16))
        if with_masks := any(row.mask for row in rows):
            masks = files.enter_context(GrowingArray(folder / "masks.npy", how.size, np.uint8))
        for at, found in enumerate(_decoded(rows, how)):
            decoded()
            if isinstance(found, str):
                index["faults"].append((at, found))
                continue
            images.extend(found.pixels)
            if with_masks:
                unlabeled = np.full((len(found.pixels), *how.size), UNLABELED, np.uint8)
                masks.extend(unlabeled if found.masks is None else found.masks)
            index["kept"] += [at] * len(found.pixels)
            index["positions"] += [] if found.positions is None else found.positions.tolist()
            index["spacing"] += [found.spacing] * len(found.pixels)
            index["constant"] += [at] * found.constant
            index["empty"] += found.empty
            index["clipping"] += [] if found.constant else [found.clipping]
            if len(found.pixels) and not found.constant:
                index["digests"][at] = pixel_digest(found.pixels)
    return index


def _decoded(rows: Sequence[Row], how: Decoding) -> Iterator[Decoded | str]:
    """In the order of the rows, or the error; a few at a time, so that memory does not grow with their number."""

    def attempt(row: Row) -> Decoded | str:
        try:
            return decode(row, how)
        except ImageError as error:
            return str(error)

    step = 8 * _THREADS
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(rows), step):
            yield from pool.map(attempt, rows[start : start + step])


def _publish(unfinished: Path, place: Path) -> None:
    """One rename makes the folder visible; if another run was first, its equal folder stays."""
    try:
        unfinished.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
