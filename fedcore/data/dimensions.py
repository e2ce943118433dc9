"""Dimensions and channels of a manifest's images, before one is decoded for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedcore.data.cache.cache import VERSION, decoders, open_cache
from fedcore.data.cache.content import Memo, key_of
from fedcore.data.io.pictures.grey import certainly_grey
from fedcore.data.io.readers import ImageError, read_image
from fedcore.data.manifest.manifest import Row
from fedcore.errors import InputErrors

_AT_A_TIME = 32


def survey(sites: Mapping[str, Sequence[Row]], folder: Path) -> tuple[int, int]:
    """(spatial dimensions, channels): those of the first image of each site that can be read, and of all images.

    Grey where all images are, colour where one is; three equal channels are grey, as many a JPEG export stores it.
    Headers tell most grey files. Others are read until one is colour, so no more than one of a colour set is, and all
    of a set of grey pictures in RGB. What is found is remembered in `folder`, the cache.

    Raises:
        InputErrors: Not one image can be read, or sites differ in dimensions.
    """
    with open_cache(folder):
        memo = Memo(folder / "known.json")
        known = {site: look for site, rows in sites.items() if (look := _recalled(rows, memo))}
        memo.save()
    if not known:
        faults = [
            f"site '{site}': none of its images can be read; the first: {_reason(rows)}" for site, rows in sites.items()
        ]
        raise InputErrors("images", faults)
    if len({dims for dims, _ in known.values()}) > 1:
        advice = "2D and 3D images need manifests of their own."
        raise InputErrors("images", [f"site '{site}' has {dims}D images" for site, (dims, _) in known.items()], advice)
    return next(iter(known.values()))[0], _common(channels for _, channels in known.values())


def _recalled(rows: Sequence[Row], memo: Memo) -> list[int] | None:
    """Another decoder or reader may read what could not be read before, so they are part of the key."""
    key = key_of([memo.digest(row) for row in rows], decoders(), VERSION)
    return memo.recall(f"survey {key}", lambda: _of_site(rows))


def _of_site(rows: Sequence[Row]) -> list[int] | None:
    """[dimensions, channels]; None where no image can be read."""
    first = next((look for row in rows if (look := _look(row))), None)
    if first is None:
        return None
    dims, found = first[0], {first[1]}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), _AT_A_TIME):
            if 3 in found:
                break
            found |= {*pool.map(_channels, rows[start : start + _AT_A_TIME])} - {0}
    return [dims, _common(found)]


def _common(channels: Iterable[int]) -> int:
    """What all can become; an image of another number, such as 2 among 1, is refused when it is decoded."""
    found = {*channels}
    return 3 if 3 in found else 1 if 1 in found else max(found)


def _channels(row: Row) -> int:
    """Zero of an image that cannot be read."""
    if row.member is None and certainly_grey(row.image):
        return 1
    look = _look(row)
    return look[1] if look else 0


def _look(row: Row) -> tuple[int, int] | None:
    try:
        image = read_image(row.image, row.member, row.index, nan="minimum")
    except ImageError:
        return None
    return image.ndim - 1, 1 if (image == image[:1]).all() else len(image)


def _reason(rows: Sequence[Row]) -> str:
    try:
        read_image(rows[0].image, rows[0].member, rows[0].index, nan="minimum")
    except ImageError as fault:
        return f"row {rows[0].number}: {fault}"
    return f"row {rows[0].number}"
