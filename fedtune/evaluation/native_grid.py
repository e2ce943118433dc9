"""What a trained network says of whole images, on the grid of the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.io.class_numbers import as_classes
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import ImageError, read_image
from fedcore.data.io.spacing import spacing_of
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess.decode import UNKNOWN_LAYOUT, Decoded, Decoding, Layout, resize_or_slice
from fedcore.data.preprocess.geometry import Spacing, unfit
from fedcore.data.preprocess.slices import volume_slices
from fedcore.data.source import Data
from fedcore.errors import InputError, Refused


def answers(
    network: nn.Module, how: Decoding, raw: np.ndarray, layout: Layout = UNKNOWN_LAYOUT
) -> Iterator[tuple[int, Float[Tensor, "k *_"]]]:
    """Logits of an image as `read_image` gives it, which is treated as in training, at place 0. Of a volume that is cut
    those of each slice that is not empty, at its place along the axis. Raises ImageError.
    """
    dims = raw.ndim - 1
    if dims != how.dims:
        raise ImageError(f"a {dims}D image, and the model knows {how.dims}D ones")
    try:
        images = resize_or_slice(how.scaling(raw), None, how, layout)
    except ValueError as e:
        raise ImageError(f"{raw.shape[0]} channels cannot become {how.channels}") from e
    if not len(images.pixels):
        raise ImageError("every slice holds one single value")
    return _one_by_one(network, images)


@torch.inference_mode()
def _one_by_one(network: nn.Module, images: Decoded) -> Iterator[tuple[int, Float[Tensor, "k *_"]]]:
    """Logits of all of a volume's slices may not fit into memory together."""
    places = [0] if images.places is None else images.places.tolist()
    device = next(network.parameters()).device
    for place, pixels in zip(places, images.pixels, strict=True):
        yield place, network(torch.from_numpy(pixels)[None].float().to(device))[0].float().cpu()


def native_mask(
    logits: Iterable[tuple[int, Tensor]], how: Decoding, space: tuple[int, ...], layout: Layout
) -> UInt8[np.ndarray, "*space"]:
    """Class numbers of an image of this shape from what `answers` says of it."""
    mask = np.zeros(space, np.uint8)
    parts = mask[None] if how.slices is None else volume_slices(mask, how.slices, layout.ras)
    for place, maps in logits:
        parts[place] = unfit(maps, parts.shape[1:], layout.spacing).argmax(0).numpy()
    return mask


Sides = tuple[Int64[Tensor, "*space"], Int64[Tensor, "*space"], Spacing]
"""Predicted and true class numbers, and how far apart pixels are, in mm or, where nobody knows that, in pixels."""


@dataclass(frozen=True)
class Files:
    """The files of test images with masks, by row of the manifest."""

    rows: Mapping[int, Row]
    how: Decoding

    @classmethod
    def of(cls, data: Data, cohort: Cohort) -> Files:
        """Raises InputError where images have no files, or come from several manifests."""
        if data.manifest == "phantom":
            raise InputError("native scores images on the grid of their files, and phantom hospitals have none")
        if further := sorted(cohort.extra_sites & cohort.split("test").keys()):
            raise InputError(
                f"native takes test images of data.manifest alone; data.extra_manifests has some of {further[0]!r}: "
                "remove its column split, or set native to false"
            )
        manifest = data.read_manifest(data.manifest)
        mask_255, _ = data.infer_mask_255(manifest)
        rows = {row.number: row for row in manifest.rows if row.mask}
        return cls(rows, data.decoding(cohort.size, cohort.channels, mask_255))

    def places(self, images: Images) -> Int64[np.ndarray, " n"]:
        """One for each file: that of its image, or of a volume's first slice."""
        assert images.rows is not None, "images of files have rows"
        return np.sort(np.unique(images.rows, return_index=True)[1])

    def sides(self, network: nn.Module, images: Images, at: int) -> Sides:
        """Of the file at a place.

        Raises:
            Refused: It cannot be read (any more).
        """
        assert images.rows is not None, "images of files have rows"
        number = int(images.rows[at])
        row = self.rows[number]
        assert row.mask is not None, "only images with masks are asked for"
        try:
            raw, layout = read_image(row.image, nan=self.how.nan), self.how.layout(row.image)
            truth = as_classes(read_mask_for(row.image, row.mask, raw.shape[1:]), self.how.mask_255)
            guess = native_mask(answers(network, self.how, raw, layout), self.how, raw.shape[1:], layout)
        except ImageError as fault:
            raise Refused(f"the image of row {number} or its mask cannot be read: {fault}") from None
        whole = spacing_of(row.image) or (1.0,) * truth.ndim
        return torch.from_numpy(guess).long(), torch.from_numpy(truth).long(), whole
