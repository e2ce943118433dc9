"""Checks one image and its mask for `data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.data.duplicates import pixel_digest
from fedcore.data.io.error import ImageError
from fedcore.data.io.header import Header, read_header
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import Nan, read_image
from fedcore.data.manifest.row import Row

_NO_HEADER = Header()


@dataclass(frozen=True)
class ImageCheck:
    """The properties of one image; only `error` for one that cannot be used, nothing for one that was not opened."""

    shape: tuple[int, ...] = ()
    channels: int = 0
    low: float = 0.0
    """1st and 99th (`high`) percentile of the raw intensities."""
    high: float = 0.0
    constant: bool = False
    header: Header = _NO_HEADER
    structures: frozenset[int] = frozenset()
    """Class numbers in the mask, 255 included."""
    digest: str = ""
    """Of the raw pixels; '' for a constant image."""
    error: str = ""


Checked = Mapping[str, Sequence[tuple[Row, ImageCheck]]]
"""Rows with their checks, by site."""


def check_image(row: Row, nan: Nan = "stop") -> ImageCheck:
    """Reads the image and the mask of a row; memory is that of one image."""
    try:
        image = read_image(row.image, row.member, row.index, nan=nan)
        shape = image.shape[1:]
        mask = None if row.mask is None else read_mask_for(row.image, row.mask, shape)
        header = _NO_HEADER if row.member else read_header(row.image)
    except ImageError as error:
        return ImageCheck(error=str(error))
    low, high = (float(value) for value in np.percentile(image, (1, 99)))
    constant = bool(image.min() == image.max())
    return ImageCheck(
        shape=shape,
        channels=1 if (image == image[:1]).all() else image.shape[0],
        low=low,
        high=high,
        constant=constant,
        header=header,
        structures=frozenset() if mask is None else frozenset(np.unique(mask).tolist()),
        digest="" if constant else pixel_digest(image),
    )


def mask_values(sites: Checked) -> dict[str, Counter[tuple[int, ...]]]:
    """By site, how many masks contain exactly these class numbers."""
    return {
        site: Counter(tuple(sorted(check.structures)) for row, check in pairs if row.mask and check.structures)
        for site, pairs in sites.items()
    }
