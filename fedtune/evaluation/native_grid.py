"""Predictions of a trained network for whole images, on the grid of the files that hold them."""

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
from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess.decode import UNKNOWN_LAYOUT, Decoded, Decoding, Layout, resize_or_slice
from fedcore.data.preprocess.geometry import Spacing, unfit
from fedcore.data.preprocess.slices import volume_slices
from fedcore.data.source import Data
from fedcore.errors import InputError, Refused


def predict_logits(
    network: nn.Module, decoding: Decoding, raw: np.ndarray, layout: Layout = UNKNOWN_LAYOUT
) -> Iterator[tuple[int, Float[Tensor, "k *_"]]]:
    """(0, logits) of an image as `read_image` returns it, preprocessed as in training.

    Where training cuts volumes into slices: (index, logits) of each slice that is not constant.

    Raises:
        ImageError: The network cannot take the image.
    """
    dims = raw.ndim - 1
    if dims != decoding.dims:
        raise ImageError(f"the image is {dims}D, and the model takes {decoding.dims}D images")
    try:
        images = resize_or_slice(decoding.scaling(raw), None, decoding, layout)
    except ValueError as e:
        raise ImageError(f"{raw.shape[0]} channels cannot become {decoding.channels}") from e
    if not len(images.pixels):
        raise ImageError("every slice is constant (one single value)")
    return _logits(network, images)


@torch.inference_mode()
def _logits(network: nn.Module, images: Decoded) -> Iterator[tuple[int, Float[Tensor, "k *_"]]]:
    """One by one, because the logits of all slices of a volume may not fit into memory."""
    indices = [0] if images.places is None else images.places.tolist()
    device = next(network.parameters()).device
    for index, pixels in zip(indices, images.pixels, strict=True):
        yield index, network(torch.from_numpy(pixels)[None].float().to(device))[0].float().cpu()


def native_mask(
    logits: Iterable[tuple[int, Tensor]], decoding: Decoding, space: tuple[int, ...], layout: Layout
) -> UInt8[np.ndarray, "*space"]:
    """Class numbers of an image of this shape, from the result of `predict_logits`."""
    mask = np.zeros(space, np.uint8)
    parts = mask[None] if decoding.slices is None else volume_slices(mask, decoding.slices, layout.ras)
    for index, maps in logits:
        parts[index] = unfit(maps, parts.shape[1:], layout.spacing).argmax(0).numpy()
    return mask


def require_files(data: Data, cohort: Cohort) -> None:
    """Raises InputError where images have no files, or test images come from several manifests."""
    if data.manifest == "phantom":
        raise InputError("native_grid scores images on the grid of their files, and simulated hospitals have none")
    if extra := sorted(cohort.extra_sites & cohort.split("test").keys()):
        raise InputError(
            "native_grid takes test images of data.manifest only; data.extra_manifests has some of "
            f"{extra[0]!r}: remove its column split, or set native_grid to false"
        )


MaskPair = tuple[Int64[Tensor, "*space"], Int64[Tensor, "*space"], Spacing]
"""Predicted and true class numbers, and the distance of pixels in mm, or 1 where it is unknown."""


@dataclass(frozen=True)
class NativeFiles:
    """The files of test images with masks, by row of the manifest."""

    rows: Mapping[int, Row]
    decoding: Decoding

    @classmethod
    def of(cls, data: Data, size: tuple[int, ...], channels: int) -> NativeFiles:
        """Of images of this size and number of channels in `data.manifest`. Raises InputErrors."""
        manifest = data.read_manifest(data.manifest)
        mask_255, _ = data.infer_mask_255(manifest)
        rows = {row.number: row for row in manifest.rows if row.mask}
        return cls(rows, data.decoding(size, channels, mask_255))

    def indices(self, images: Images) -> Int64[np.ndarray, " n"]:
        """The index of one image of each file: of a volume its first slice."""
        assert images.rows is not None, "images of files have rows"
        return np.sort(np.unique(images.rows, return_index=True)[1])

    def mask_pair(self, network: nn.Module, images: Images, index: int) -> MaskPair:
        """The masks of the file of an image.

        Raises:
            Refused: The file cannot be read (any more).
        """
        assert images.rows is not None, "images of files have rows"
        number = int(images.rows[index])
        row = self.rows[number]
        assert row.mask is not None, "only images with masks are scored"
        try:
            raw, layout = read_image(row.image, nan=self.decoding.nan), self.decoding.layout(row.image)
            truth = as_classes(read_mask_for(row.image, row.mask, raw.shape[1:]), self.decoding.mask_255)
            logits = predict_logits(network, self.decoding, raw, layout)
            predicted = native_mask(logits, self.decoding, raw.shape[1:], layout)
        except ImageError as e:
            raise Refused(f"the image of row {number} or its mask cannot be read: {e}") from None
        spacing = spacing_of(row.image) or (1.0,) * truth.ndim
        return torch.from_numpy(predicted).long(), torch.from_numpy(truth).long(), spacing
