"""Test images with the outlines of true and predicted masks, from the files that sites kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fedcore.report.read.site_files import UNREADABLE, figure_files
from fedcore.report.thumbnails import thumbnail
from fedcore.site.figure_files import SegmentationGalleryFile

_BYTES = 2_500_000  # of the page's 5 MB
_RANKS = {1: ("only one",), 2: ("best", "worst"), 3: ("best", "median", "worst")}


@dataclass(frozen=True)
class SegmentedImage:
    """An image, and the outlines of its masks as paths of an SVG in the image's pixels."""

    rank: str
    """best, median or worst Dice of the site."""
    dice: float
    picture: str
    width: int
    height: int
    true: str
    predicted: str

    @property
    def size(self) -> int:
        return len(self.picture) + len(self.true) + len(self.predicted)


@dataclass(frozen=True)
class SiteSegmentations:
    """Best Dice first."""

    site: str
    images: tuple[SegmentedImage, ...]


def read_segmentations(folder: Path, sites: Iterable[str], gaps: list[str]) -> tuple[SiteSegmentations, ...]:
    """Of the sites that kept a file, within the page's bytes; what is missing is noted in `gaps`."""
    files = figure_files(folder, sites, SegmentationGalleryFile.NAME)
    found: list[SiteSegmentations] = []
    spent = 0
    for at, (site, path) in enumerate(files.items()):
        try:
            images = tuple(_segmented(SegmentationGalleryFile.load(path)))
        except UNREADABLE:
            gaps.append(f"The segmentations of {site} cannot be read.")
            continue
        spent += sum(image.size for image in images)
        if spent > _BYTES:
            gaps.append(f"The segmentations of {len(files) - at} sites are left out to keep this page small.")
            break
        found.append(SiteSegmentations(site, images))
    return tuple(found)


def outline(mask: UInt8[np.ndarray, "h w"]) -> str:
    """An SVG path along the edges between pixels of different class numbers; outside the image is background."""
    framed = np.pad(mask, 1)
    level = _runs(framed[:-1, 1:-1] != framed[1:, 1:-1])
    upright = _runs((framed[1:-1, :-1] != framed[1:-1, 1:]).T)
    return "".join(
        [f"M{start},{y}H{end}" for y, start, end in level] + [f"M{x},{start}V{end}" for x, start, end in upright]
    )


def _runs(edges: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row, first, one past the last) of each row's runs of true values."""
    steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    for (row, first), (_, end) in zip(np.argwhere(steps == 1), np.argwhere(steps == -1), strict=True):
        yield int(row), int(first), int(end)


def _segmented(file: SegmentationGalleryFile) -> Iterator[SegmentedImage]:
    height, width = file.true_masks.shape[1:]
    columns = (_RANKS[len(file.images)], file.images, file.true_masks, file.predicted_masks, file.dice)
    for rank, image, true, predicted, dice in zip(*columns, strict=True):
        picture = thumbnail(image, max(height, width))
        yield SegmentedImage(rank, float(dice), picture, width, height, outline(true), outline(predicted))
