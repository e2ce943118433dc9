"""Samples of a picture as a viewer shows them: channels first, upright, without alpha."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.data.io.error import ImageError

_ORIENTATIONS = {
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
"""By the tag Orientation (TIFF 6.0, Exif): whether rows and columns are exchanged, then rows, columns mirrored."""


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """(c, h, w) of orientation 1 to 8; other numbers are undefined and change nothing."""
    exchanged, rows, columns = _ORIENTATIONS.get(orientation, _ORIENTATIONS[1])
    turned = samples.swapaxes(1, 2) if exchanged else samples
    return turned[:, :: -1 if rows else 1, :: -1 if columns else 1]


def samples_of(picture: Any, bits: int, mask: bool) -> np.ndarray:
    """(c, h, w) of Pillow's picture with alpha; a palette as RGB or, for a mask, its indices."""
    if picture.mode in ("PA", "YCbCr") or (picture.mode == "P" and not mask):
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if bits in (2, 4) and picture.mode == "L":  # Pillow scales these to 0..255
        pixels = pixels // (255 // (2**bits - 1))
    return np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]


def without_alpha(samples: np.ndarray, mask: bool) -> np.ndarray:
    """(1 or 3, h, w); raises ImageError for a mask whose numbers are in the alpha channel."""
    if len(samples) not in (2, 4):
        return samples
    kept, alpha = samples[:-1], samples[-1]
    if mask and (kept == kept[:, :1, :1]).all() and not (alpha == alpha[0, 0]).all():
        raise ImageError("one colour, the mask is in the alpha channel; save it as greyscale numbers")
    return kept
