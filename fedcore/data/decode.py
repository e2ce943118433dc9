"""One row of the manifest to the arrays that are kept of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int64, UInt8

from fedcore.data.geometry import Spacing, fit, fit_mask, inner_size, with_channels
from fedcore.data.io.levels import require_levels, white_of
from fedcore.data.io.masks import read_mask_of
from fedcore.data.io.readers import ImageFault, read_image
from fedcore.data.io.spacing import scaled, spacing_of
from fedcore.data.manifest import Row
from fedcore.data.scaling import Scaling, Window
from fedcore.data.slices import between_ends, cut, cut_mask, not_empty

UNLABELED = 255
"""The mask value of pixels nobody has labelled, and of every pixel of an image without a mask."""


@dataclass(frozen=True)
class Decoding:
    """How images become arrays; with the files' content it decides whether a cache still holds."""

    scaling: Scaling
    size: tuple[int, ...]
    """Of what is kept: of an image, or of a slice."""
    channels: int
    slices: int | None = None
    """The spatial axis along which volumes are cut; None keeps images whole."""

    @property
    def dims(self) -> int:
        """Spatial dimensions of the files."""
        return len(self.size) + (self.slices is not None)

    def spacing(self, image: Path) -> Spacing | None:
        """In mm along the axes of an image, or of a slice, before it is fitted; None where the file does not say it."""
        found = spacing_of(image)
        if found is None or len(found) < self.dims:
            return None
        return tuple(found[axis] for axis in range(self.dims) if axis != self.slices)


@dataclass(frozen=True)
class Decoded:
    """The k images of one row in [-1, 1]: one, or the slices of its volume that are not empty."""

    pixels: Float16[np.ndarray, "k c *space"]
    masks: UInt8[np.ndarray, "k *space"] | None
    places: Int64[np.ndarray, " k"] | None = None
    """Of slices, along the axis of their volume."""
    empty: int = 0
    """Slices left out, since they hold one single value."""
    spacing: Spacing | None = None
    """Between the pixels that are kept, in mm; None where the file does not say it."""
    constant: bool = False
    """The whole image or volume holds one single value."""

    @property
    def positions(self) -> Float32[np.ndarray, " k"] | None:
        """Of slices, from the first that is not empty (0) to the last (1)."""
        return None if self.places is None else between_ends(self.places)


def decode(row: Row, how: Decoding) -> Decoded:
    """Reads, scales and fits one image, or the slices of one volume.

    Scaled before it is fitted or cut: padding and smoothing must not move the percentiles, and the slices of
    a volume keep their brightness to one another. Images of a synthetic set are scaled by their own levels.

    Raises:
        ImageFault: unreadable, of other dimensions than the rest, a mask of another shape or place, or a synthetic
            image whose file does not hold the levels that were drawn.
    """
    raw = read_image(row.image, row.member, row.index)
    dims = raw.ndim - 1
    if dims != how.dims:
        raise ImageFault(f"a {dims}D image among {how.dims}D ones; put them in manifests of their own")
    if raw.shape[0] not in (1, how.channels) and (raw.shape[0], how.channels) != (3, 1):
        raise ImageFault(f"{raw.shape[0]} channels cannot become {how.channels}")
    mask = None if row.mask is None else read_mask_of(row.image, row.mask, raw.shape[1:])
    scaling = _levels_of(row, raw) if row.synthetic else how.scaling
    images = arrange(scaling(raw), mask, how, None if row.member else how.spacing(row.image))
    return replace(images, constant=bool(raw.min() == raw.max()))


def _levels_of(row: Row, raw: Float32[np.ndarray, "c *space"]) -> Scaling:
    """From the levels that the row's file stores back to what was drawn."""
    white = white_of(row.image, row.member, row.index)
    require_levels(raw, white)
    return Window(0.0, float(white))


def arrange(
    image: Float32[np.ndarray, "c *space"], mask: UInt8[np.ndarray, "*space"] | None, how: Decoding,
    spacing: Spacing | None = None,
) -> Decoded:  # fmt: skip
    """The images to keep of one whose intensities are scaled; `spacing` is that of the pixels of what is kept."""
    space = tuple(side for axis, side in enumerate(image.shape[1:]) if axis != how.slices)
    kept = spacing and scaled(spacing, space, inner_size(space, how.size, spacing))
    if how.slices is None:
        pixels = fit(image, how.size, how.channels, spacing).astype(np.float16)
        masks = None if mask is None else fit_mask(mask, how.size, spacing)[None]
        return Decoded(pixels[None], masks, spacing=kept)
    slices = cut(with_channels(image, how.channels), how.slices, how.size, spacing).astype(np.float16)
    shown = not_empty(slices)
    masks = None if mask is None else cut_mask(mask, how.slices, how.size, spacing)[shown]
    return Decoded(slices[shown], masks, shown, empty=len(slices) - len(shown), spacing=kept)
