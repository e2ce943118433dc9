"""Images as small PNGs inside a page (data URIs)."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fedcore.data.io.grid import as_displayed

_SIDE = 112  # pixels: the size at which a tile is shown, at twice the density
_SMALL = 72  # pixels of a thumbnail


def tile(image: Float[np.ndarray, "c *space"], side: int = _SIDE) -> str:
    """A data URI of one image in [-1, 1], at most `side` pixels high.

    RGB, or the first channel; of a volume three middle slices (sagittal, coronal and axial where its file states its
    orientation), oriented as a viewer shows them.
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
    """A small tile of a thumbnail that a site kept (`fedcore.site.figures`)."""
    return tile(pixels.astype(np.float32) / 127.5 - 1, side)


def _planes(image: Float[np.ndarray, "c *space"]) -> list[Float[np.ndarray, "c h w"]]:
    if image.ndim not in (3, 4):
        raise ValueError(f"an image must have 2 or 3 spatial axes, found {image.ndim - 1}")
    if image.ndim == 3:
        return [image]
    return [as_displayed(np.take(image, image.shape[axis] // 2, axis=axis)) for axis in (1, 2, 3)]


def _pixels(plane: Float[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "h w ..."]:
    """uint8 of shape (h, w) or (h, w, 3)."""
    shown = np.moveaxis(plane, 0, -1) if plane.shape[0] == 3 else plane[0]
    levels: np.ndarray = np.round((np.nan_to_num(shown).clip(-1, 1) + 1) * 127.5)
    return levels.astype(np.uint8)


def _squared(plane: Any, planes: list[Any]) -> Any:
    """A slice of a volume centred on a black square, so that slices can be put in a row; a single plane as it is."""
    if len(planes) == 1:
        return plane
    side = max(max(other.shape[:2]) for other in planes)
    short = [side - length for length in plane.shape[:2]]
    margins = [(gap // 2, gap - gap // 2) for gap in short] + [(0, 0)] * (plane.ndim - 2)
    padded: np.ndarray = np.pad(plane, margins)
    return padded
