"""Limits on the unpacked size of a file: a header of a few bytes can declare terabytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from math import prod
from typing import Any

from fedcore.data.io.error import ImageError

MAX_VOXELS = 2**30
"""Per image: 1024 x 1024 x 1024, 4 GiB as float32. A CT of 2000 slices has half of that."""
MAX_KEPT_BYTES = 256 << 20
"""Unpacked bytes of a file that a site stores for its page; those of the kit have a few MB."""
MAX_IMAGES = 10_000_000
"""Per .npz."""


def require_voxels(shape: Iterable[Any], kind: str) -> None:
    """Raises ImageError for an image of this shape if it is too large."""
    sides = [int(side) for side in shape]
    if prod(sides) > MAX_VOXELS:
        raise ImageError(f"{kind} of {' x '.join(map(str, sides))} pixels; an image may have at most {MAX_VOXELS:,}")


def require_small(archive: zipfile.ZipFile, most: int, what: str) -> None:
    """Raises ValueError for an archive whose files unpack to more than `most` bytes."""
    if (size := sum(entry.file_size for entry in archive.infolist())) > most:
        raise ValueError(f"{what} unpacks to {size / 2**20:,.0f} MiB; at most {most / 2**20:,.0f} are allowed")


def require_picture(pixels: int) -> None:
    """Raises ImageError for a picture of more pixels than Pillow opens."""
    if pixels > _max_picture_pixels():
        raise too_large()


def too_large() -> ImageError:
    return ImageError(
        f"larger than {_max_picture_pixels() / 1e6:,.0f} million pixels; save a smaller picture, or tiles of it"
    )


def _max_picture_pixels() -> int:
    from PIL import Image

    return 2 * (Image.MAX_IMAGE_PIXELS or MAX_VOXELS)
