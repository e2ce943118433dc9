"""From one row of the manifest to its arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int64, UInt8

from fedcore.data.io.affine import grid_of
from fedcore.data.io.class_numbers import as_classes
from fedcore.data.io.error import ImageError
from fedcore.data.io.levels import require_levels, white_level
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import Nan, read_image
from fedcore.data.io.spacing import scaled
from fedcore.data.manifest.row import Row
from fedcore.data.mask_classes import Mask255
from fedcore.data.preprocess.clipping import UNCLIPPED, Clipping, clipping_of
from fedcore.data.preprocess.geometry import Spacing, fit, fit_mask, inner_size, with_channels
from fedcore.data.preprocess.scaling import Scaling, Window
from fedcore.data.preprocess.slices import (
    cut_mask_slices,
    cut_slices,
    in_slice,
    non_empty_slices,
    normalise_positions,
)


@dataclass(frozen=True)
class Layout:
    """The pixel spacing and orientation of a file."""

    spacing: Spacing | None = None
    """In mm along the axes of an image, or of a slice; None if unknown."""
    ras: bool = False
    """The volume is in RAS orientation, so that slices are oriented as a viewer shows them."""


UNKNOWN_LAYOUT = Layout()


@dataclass(frozen=True)
class Decoding:
    """How images become arrays; part of the cache's key, with the content of the files."""

    scaling: Scaling
    size: tuple[int, ...]
    """Of an image, or of a slice."""
    channels: int
    slices: int | None = None
    """The spatial axis along which volumes are cut; None keeps images whole."""
    mask_255: Mask255 = "unlabelled"
    """Meaning of 255 in all masks."""
    nan: Nan = "stop"

    @property
    def dims(self) -> int:
        """Spatial dimensions of the files."""
        return len(self.size) + (self.slices is not None)

    def layout(self, image: Path) -> Layout:
        """The spacing and orientation of a file's pixels, or of those of its slices, before they are resized."""
        if (grid := grid_of(image)) is None:
            return UNKNOWN_LAYOUT
        found, ras = grid.spacing, grid.affine is not None
        if self.slices is not None and found is not None:
            found = in_slice(found, self.slices, ras)
        return Layout(found, ras)


@dataclass(frozen=True)
class Decoded:
    """The k images of one row in [-1, 1]: one, or the slices of its volume that are not empty."""

    pixels: Float16[np.ndarray, "k c *space"]
    masks: UInt8[np.ndarray, "k *space"] | None
    places: Int64[np.ndarray, " k"] | None = None
    """Indices of slices along the axis of their volume."""
    empty: int = 0
    """Number of slices left out because they contain one single value."""
    spacing: Spacing | None = None
    """Of the resized pixels, in mm; None if unknown."""
    constant: bool = False
    """The whole image or volume has one single value."""
    clipping: Clipping = UNCLIPPED
    """Of the whole image or volume, by its scaling."""

    @property
    def positions(self) -> Float32[np.ndarray, " k"] | None:
        """Of slices, from the first that is not empty (0) to the last (1)."""
        return None if self.places is None else normalise_positions(self.places)


def decode(row: Row, how: Decoding) -> Decoded:
    """Reads, scales and fits one image, or the slices of one volume.

    Intensities are scaled first: padding and smoothing must not change the percentiles, and the slices of a volume keep
    their relative brightness. Images of a synthetic set are scaled by the levels of their files.

    Raises:
        ImageError: The image is unreadable or its dimensions differ from the others, its mask has another shape or
            position, or it is a synthetic image whose file lost the generated levels.
    """
    raw = read_image(row.image, row.member, row.index, how.nan)
    dims = raw.ndim - 1
    if dims != how.dims:
        raise ImageError(f"a {dims}D image among {how.dims}D ones; put them in separate manifests")
    if raw.shape[0] not in (1, how.channels) and (raw.shape[0], how.channels) != (3, 1):
        raise ImageError(f"{raw.shape[0]} channels cannot become {how.channels}")
    mask = None if row.mask is None else as_classes(read_mask_for(row.image, row.mask, raw.shape[1:]), how.mask_255)
    scaling = _synthetic_scaling(row, raw) if row.synthetic else how.scaling
    scaled_image = scaling(raw)
    images = resize_or_slice(scaled_image, mask, how, UNKNOWN_LAYOUT if row.member else how.layout(row.image))
    return replace(images, constant=bool(raw.min() == raw.max()), clipping=clipping_of(raw, scaled_image))


def _synthetic_scaling(row: Row, raw: Float32[np.ndarray, "c *space"]) -> Scaling:
    """From the levels of the row's file back to the values that were generated."""
    white = white_level(row.image, row.member, row.index)
    require_levels(raw, white)
    return Window(0.0, float(white))


def resize_or_slice(
    image: Float32[np.ndarray, "c *space"], mask: UInt8[np.ndarray, "*space"] | None, how: Decoding,
    layout: Layout = UNKNOWN_LAYOUT,
) -> Decoded:  # fmt: skip
    """The resized image, or the resized slices, of an image whose intensities are scaled."""
    spacing, ras = layout.spacing, layout.ras
    space = image.shape[1:] if how.slices is None else in_slice(image.shape[1:], how.slices, ras)
    resized = spacing and scaled(spacing, space, inner_size(space, how.size, spacing))
    if how.slices is None:
        pixels = fit(image, how.size, how.channels, spacing).astype(np.float16)
        masks = None if mask is None else fit_mask(mask, how.size, spacing)[None]
        return Decoded(pixels[None], masks, spacing=resized)
    slices = cut_slices(with_channels(image, how.channels), how.slices, how.size, spacing, ras).astype(np.float16)
    kept = non_empty_slices(slices)
    masks = None if mask is None else cut_mask_slices(mask, how.slices, how.size, spacing, ras)[kept]
    return Decoded(slices[kept], masks, kept, empty=len(slices) - len(kept), spacing=resized)
