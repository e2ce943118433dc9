"""How much one file may unpack to: a header of a few bytes can promise terabytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from math import prod
from typing import Any

from fedcore.data.io.error import ImageError

MOST_VOXELS = 2**30
"""Of an image: 1024 x 1024 x 1024, 4 GiB as float32. A CT of 2000 slices has half of that."""
MOST_KEPT = 256 << 20
"""Bytes of what a site keeps for its page, unpacked; the kit's own files have a few MB."""
MOST_IMAGES = 10_000_000
"""Of one .npz."""


def require_voxels(shape: Iterable[Any], kind: str) -> None:
    """Raises ImageError for an image of this shape that is too large to be read."""
    sides = [int(side) for side in shape]
    if prod(sides) > MOST_VOXELS:
        raise ImageError(f"{kind} of {' x '.join(map(str, sides))} pixels; an image has at most {MOST_VOXELS:,}")


def require_small(archive: zipfile.ZipFile, most: int, what: str) -> None:
    """Raises ValueError for an archive whose files unpack to more than `most` bytes."""
    if (size := sum(entry.file_size for entry in archive.infolist())) > most:
        raise ValueError(f"{what} unpacks to {size / 2**20:,.0f} MiB; it may have {most / 2**20:,.0f}")


def require_picture(pixels: int) -> None:
    """Raises ImageError for a picture of more pixels than Pillow opens."""
    if pixels > _most_of_a_picture():
        raise too_large()


def too_large() -> ImageError:
    return ImageError(
        f"larger than {_most_of_a_picture() / 1e6:,.0f} million pixels; save a smaller picture, or tiles of it"
    )


def _most_of_a_picture() -> int:
    from PIL import Image

    return 2 * (Image.MAX_IMAGE_PIXELS or MOST_VOXELS)
