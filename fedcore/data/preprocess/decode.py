"""One row of the manifest to the arrays that are kept of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int64, UInt8

from fedcore.data.io.affine import grid_of
from fedcore.data.io.levels import require_levels, white_of
from fedcore.data.io.masks import Meaning, as_classes, read_mask_of
from fedcore.data.io.readers import ImageError, Nan, read_image
from fedcore.data.io.spacing import scaled
from fedcore.data.manifest.manifest import Row
from fedcore.data.preprocess.clipping import UNCLIPPED, Clipping, clipping_of
from fedcore.data.preprocess.geometry import Spacing, fit, fit_mask, inner_size, with_channels
from fedcore.data.preprocess.scaling import Scaling, Window
from fedcore.data.preprocess.slices import between_ends, cut, cut_mask, not_empty, plane_of

UNLABELED = 255
"""The mask value of pixels nobody has labelled, and of every pixel of an image without a mask."""


@dataclass(frozen=True)
class Layout:
    """How pixels lie."""

    spacing: Spacing | None = None
    """In mm along the axes of an image, or of a slice; None where the file does not say it."""
    ras: bool = False
    """Volumes are known to run to right, front and head, so that slices are shown as a viewer does."""


UNKNOWN = Layout()


@dataclass(frozen=True)
class Decoding:
    """How images become arrays; with the files' content it decides whether a cache still holds."""

    scaling: Scaling
    size: tuple[int, ...]
    """Of what is kept: of an image, or of a slice."""
    channels: int
    slices: int | None = None
    """The spatial axis along which volumes are cut; None keeps images whole."""
    mask_255: Meaning = "unlabelled"
    """What 255 stands for, in all masks."""
    nan: Nan = "stop"

    @property
    def dims(self) -> int:
        """Spatial dimensions of the files."""
        return len(self.size) + (self.slices is not None)

    def layout(self, image: Path) -> Layout:
        """What a file says of its pixels, or of those of its slices, before they are fitted."""
        if (grid := grid_of(image)) is None:
            return UNKNOWN
        found, ras = grid.spacing, grid.affine is not None
        if self.slices is not None and found is not None:
            found = plane_of(found, self.slices, ras)
        return Layout(found, ras)


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
    clipping: Clipping = UNCLIPPED
    """Of the whole image or volume, by its scaling."""

    @property
    def positions(self) -> Float32[np.ndarray, " k"] | None:
        """Of slices, from the first that is not empty (0) to the last (1)."""
        return None if self.places is None else between_ends(self.places)


def decode(row: Row, how: Decoding) -> Decoded:
    """Reads, scales and fits one image, or the slices of one volume.

    Scaled before it is fitted or cut: padding and smoothing must not move the percentiles, and the slices of
    a volume keep their brightness to one another. Images of a synthetic set are scaled by their own levels.

    Raises:
        ImageError: unreadable, of other dimensions than the rest, a mask of another shape or place, or a synthetic
            image whose file does not hold the levels that were drawn.
    """
    raw = read_image(row.image, row.member, row.index, how.nan)
    dims = raw.ndim - 1
    if dims != how.dims:
        raise ImageError(f"a {dims}D image among {how.dims}D ones; put them in manifests of their own")
    if raw.shape[0] not in (1, how.channels) and (raw.shape[0], how.channels) != (3, 1):
        raise ImageError(f"{raw.shape[0]} channels cannot become {how.channels}")
    mask = None if row.mask is None else as_classes(read_mask_of(row.image, row.mask, raw.shape[1:]), how.mask_255)
    scaling = _levels_of(row, raw) if row.synthetic else how.scaling
    scaled_image = scaling(raw)
    images = arrange(scaled_image, mask, how, UNKNOWN if row.member else how.layout(row.image))
    return replace(images, constant=bool(raw.min() == raw.max()), clipping=clipping_of(raw, scaled_image))


def _levels_of(row: Row, raw: Float32[np.ndarray, "c *space"]) -> Scaling:
    """From the levels that the row's file stores back to what was drawn."""
    white = white_of(row.image, row.member, row.index)
    require_levels(raw, white)
    return Window(0.0, float(white))


def arrange(
    image: Float32[np.ndarray, "c *space"], mask: UInt8[np.ndarray, "*space"] | None, how: Decoding,
    layout: Layout = UNKNOWN,
) -> Decoded:  # fmt: skip
    """The images to keep of one whose intensities are scaled."""
    spacing, ras = layout.spacing, layout.ras
    space = image.shape[1:] if how.slices is None else plane_of(image.shape[1:], how.slices, ras)
    kept = spacing and scaled(spacing, space, inner_size(space, how.size, spacing))
    if how.slices is None:
        pixels = fit(image, how.size, how.channels, spacing).astype(np.float16)
        masks = None if mask is None else fit_mask(mask, how.size, spacing)[None]
        return Decoded(pixels[None], masks, spacing=kept)
    slices = cut(with_channels(image, how.channels), how.slices, how.size, spacing, ras).astype(np.float16)
    shown = not_empty(slices)
    masks = None if mask is None else cut_mask(mask, how.slices, how.size, spacing, ras)[shown]
    return Decoded(slices[shown], masks, shown, empty=len(slices) - len(shown), spacing=kept)
