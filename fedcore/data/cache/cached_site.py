"""The decoded images of one site, as they lie in the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.data.preprocess.clipping import Clipping

RowErrors = tuple[tuple[int, str], ...]
"""(place of a row among the site's rows, reason why it cannot be used)."""


@dataclass(frozen=True)
class CachedSite:
    """n is the number of images kept."""

    pixels: np.ndarray
    """(n, c, *space) float16, a memory-mapped file."""
    masks: np.ndarray | None
    """(n, *space) uint8, 255 where not annotated; None if no row has a mask."""
    kept: tuple[int, ...]
    """For each image the place of its row among the site's rows; the slices of a volume share one."""
    positions: np.ndarray | None
    """(n,) float32 in [0, 1], of slices; None for whole images."""
    spacing: np.ndarray | None
    """(n, d) float32, mm between pixels, NaN where a file lacks it; None where all files lack it."""
    constant: tuple[int, ...]
    """Places of rows with one single value (kept, all -1 by percentiles, unless they were cut into slices)."""
    empty: int
    """Number of slices left out because they contain one single value."""
    clipping: tuple[Clipping, ...]
    """Of each row that was neither skipped nor constant."""
    errors: RowErrors
    """Rows that were skipped."""
    digests: tuple[str, ...]
    """Digest of each row's decoded pixels, so that equal images are found; '' for rows skipped or constant."""


def read_site(place: Path) -> CachedSite | None:
    """The images in a folder of the cache; None if it does not exist."""
    if not place.is_dir():
        return None
    index = json.loads((place / "index.json").read_text(encoding="utf-8"))
    masks = place / "masks.npy"
    return CachedSite(
        pixels=np.load(place / "images.npy", mmap_mode="r", allow_pickle=False),
        masks=np.load(masks, mmap_mode="r", allow_pickle=False) if masks.exists() else None,
        kept=tuple(index["kept"]),
        positions=np.array(index["positions"], np.float32) if index["positions"] else None,
        spacing=_spacing(index["spacing"]),
        constant=tuple(index["constant"]),
        empty=index["empty"],
        clipping=tuple(Clipping(*each) for each in index["clipping"]),
        errors=tuple((at, text) for at, text in index["faults"]),
        digests=tuple(index["digests"]),
    )


def _spacing(found: Sequence[Sequence[float] | None]) -> np.ndarray | None:
    dims = next((len(one) for one in found if one), 0)
    unknown = [np.nan] * dims
    return np.array([one or unknown for one in found], np.float32) if dims else None
