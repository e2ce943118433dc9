"""A site's sample images and their views, as small PNGs inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fedcore.data.io.grid import as_displayed
from fedcore.report.read.site_files import UNREADABLE, holders, kept

FILE = "samples.npz"
_SIDE = 112  # pixels: as large as a tile is shown, twice as dense
_SMALL = 72  # pixels of a kept thumbnail
_TILES = 120  # images over all sites, before their views
_VOLUMES = 2  # of a site: each takes a row
_BYTES = 2_000_000  # of the page's 5 MB


@dataclass(frozen=True)
class Album:
    """`rows` holds, for each image, the data URIs of the image and of its views."""

    site: str
    rows: tuple[tuple[str, ...], ...]
    volume: bool


def albums(folder: Path, sites: Iterable[str], gaps: list[str]) -> tuple[Album, ...]:
    """The albums of the sites that left samples, within the page's bytes; what is left out is noted."""
    having = holders(folder, sites, FILE)
    found: list[Album] = []
    spent = 0
    for at, site in enumerate(having):
        album = _album(folder, site, gaps, most=_most(len(having)))
        size = sum(len(tile) for row in album.rows for tile in row)
        if spent + size > _BYTES:
            gaps.append(f"The images of {len(having) - at} sites are left out to keep this page small.")
            break
        spent += size
        found += [album] if album.rows else []
    return tuple(found)


def _most(sites: int) -> int:
    return max(1, min(6, _TILES // sites))


def _album(folder: Path, site: str, gaps: list[str], *, most: int) -> Album:
    try:
        with kept(folder, site, FILE) as held:
            images = held["images"]
            images = images[: min(most, _VOLUMES) if images.ndim == 5 else most].astype(np.float32)
            views = held["views"][: len(images)].astype(np.float32) if "views" in held else [()] * len(images)
        pairs = zip(images, views, strict=True)
        rows = tuple(tuple(tile(one) for one in (image, *seen)) for image, seen in pairs)
    except UNREADABLE:
        gaps.append(f"The samples of {site} cannot be read.")
        return Album(site, (), False)
    return Album(site, rows, images.ndim == 5)


def tile(image: Float[np.ndarray, "c *space"], side: int = _SIDE) -> str:
    """A data URI of one image in [-1, 1]: RGB or the first channel, of a volume three middle slices (sagittal, coronal
    and axial where its file says how it lies), as a viewer shows them.

    It is `side` pixels high at most.
    """
    from PIL import Image

    planes = [_pixels(plane) for plane in _planes(image)]
    strip = Image.fromarray(np.concatenate([_squared(plane, planes) for plane in planes], axis=1))
    scale = min(1.0, side / strip.height)
    if scale < 1:
        strip = strip.resize((max(1, round(strip.width * scale)), side), Image.Resampling.BOX)
    held = io.BytesIO()
    strip.save(held, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def thumbnail(pixels: UInt8[np.ndarray, "c h w"], side: int = _SMALL) -> str:
    """A small tile of what `fedcore.site.figures` made."""
    return tile(pixels.astype(np.float32) / 127.5 - 1, side)


def _planes(image: Float[np.ndarray, "c *space"]) -> list[Float[np.ndarray, "c h w"]]:
    if image.ndim not in (3, 4):
        raise ValueError(f"an image has 2 or 3 axes of space, found {image.ndim - 1}")
    if image.ndim == 3:
        return [image]
    return [as_displayed(np.take(image, image.shape[axis] // 2, axis=axis)) for axis in (1, 2, 3)]


def _pixels(plane: Float[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "h w ..."]:
    """uint8 of shape (h, w) or (h, w, 3)."""
    shown = np.moveaxis(plane, 0, -1) if plane.shape[0] == 3 else plane[0]
    levels: np.ndarray = np.round((np.nan_to_num(shown).clip(-1, 1) + 1) * 127.5)
    return levels.astype(np.uint8)


def _squared(plane: Any, planes: list[Any]) -> Any:
    """A volume's slices centred on black squares of one side, to stand in a row; a lone one as it is."""
    if len(planes) == 1:
        return plane
    side = max(max(other.shape[:2]) for other in planes)
    short = [side - length for length in plane.shape[:2]]
    margins = [(gap // 2, gap - gap // 2) for gap in short] + [(0, 0)] * (plane.ndim - 2)
    padded: np.ndarray = np.pad(plane, margins)
    return padded
