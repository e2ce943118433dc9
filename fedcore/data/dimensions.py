"""Dimensions and channels of a manifest's images, found before they are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedcore.data.cache.cache import VERSION, installed_decoders
from fedcore.data.cache.file_index import FileIndex, cache_key
from fedcore.data.cache.folder import open_cache
from fedcore.data.io.error import ImageError
from fedcore.data.io.pictures.greyscale import known_greyscale
from fedcore.data.io.readers import read_image
from fedcore.data.manifest.row import Row
from fedcore.errors import InputErrors

_AT_A_TIME = 32


def dims_and_channels(sites: Mapping[str, Sequence[Row]], folder: Path) -> tuple[int, int]:
    """(spatial dimensions, channels): those of the first readable image of each site, and of all images.

    Channels are 1 if all images are greyscale and 3 if one is in colour; three equal channels count as greyscale, as
    many JPEG exports store it. Most greyscale files are recognised by their headers. Others are read until one is in
    colour: one image of a data set in colour, all of a greyscale set stored as RGB. Results are stored in `folder`,
    the cache.

    Raises:
        InputErrors: No image of any site can be read, or sites differ in dimensions.
    """
    with open_cache(folder):
        index = FileIndex(folder / "known.json")
        known = {site: found for site, rows in sites.items() if (found := _remembered(rows, index))}
        index.save()
    if not known:
        errors = [
            f"site '{site}': none of its images can be read; the first: {_reason(rows)}" for site, rows in sites.items()
        ]
        raise InputErrors("images", errors)
    if len({dims for dims, _ in known.values()}) > 1:
        advice = "2D and 3D images need manifests of their own."
        raise InputErrors("images", [f"site '{site}' has {dims}D images" for site, (dims, _) in known.items()], advice)
    return next(iter(known.values()))[0], _common(channels for _, channels in known.values())


def _remembered(rows: Sequence[Row], index: FileIndex) -> list[int] | None:
    """The key contains the decoders and the version: others may read images that could not be read before."""
    key = cache_key([index.digest(row) for row in rows], installed_decoders(), VERSION)
    return index.remembered(f"dimensions {key}", lambda: _of_site(rows))


def _of_site(rows: Sequence[Row]) -> list[int] | None:
    """[dimensions, channels]; None if no image can be read."""
    first = next((found for row in rows if (found := _of_image(row))), None)
    if first is None:
        return None
    dims, channels = first[0], {first[1]}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), _AT_A_TIME):
            if 3 in channels:
                break
            channels |= {*pool.map(_channels, rows[start : start + _AT_A_TIME])} - {0}
    return [dims, _common(channels)]


def _common(channels: Iterable[int]) -> int:
    """The number that all images are converted to; decoding rejects those of another one, such as 2 among 1."""
    found = {*channels}
    return 3 if 3 in found else 1 if 1 in found else max(found)


def _channels(row: Row) -> int:
    """Zero for an image that cannot be read."""
    if row.member is None and known_greyscale(row.image):
        return 1
    found = _of_image(row)
    return found[1] if found else 0


def _of_image(row: Row) -> tuple[int, int] | None:
    """(dimensions, channels); None for an image that cannot be read."""
    try:
        image = read_image(row.image, row.member, row.index, nan="minimum")
    except ImageError:
        return None
    return image.ndim - 1, 1 if (image == image[:1]).all() else len(image)


def _reason(rows: Sequence[Row]) -> str:
    try:
        read_image(rows[0].image, rows[0].member, rows[0].index, nan="minimum")
    except ImageError as error:
        return f"row {rows[0].number}: {error}"
    return f"row {rows[0].number}"
