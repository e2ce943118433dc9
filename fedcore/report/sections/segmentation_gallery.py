"""What the sites of a segmenter's run kept of it: test images with the outlines of their true and predicted masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fedcore.report.read.site_files import UNREADABLE, holders, kept
from fedcore.report.sections.images import thumbnail

FILE = "segmentation_gallery.npz"
_BYTES = 2_500_000  # of the page's 5 MB
_WORDS = {1: ("only one",), 2: ("best", "worst"), 3: ("best", "median", "worst")}


@dataclass(frozen=True)
class Outlined:
    """An image, and as paths in an SVG of its pixels the outlines of its masks."""

    word: str
    """Which of the site's it is."""
    dice: float
    picture: str
    width: int
    height: int
    truth: str
    guess: str

    @property
    def size(self) -> int:
        return len(self.picture) + len(self.truth) + len(self.guess)


@dataclass(frozen=True)
class Outlines:
    """Best Dice first."""

    site: str
    images: tuple[Outlined, ...]


def read_outlines(folder: Path, sites: Iterable[str], gaps: list[str]) -> tuple[Outlines, ...]:
    """Those of the sites that left some, within the page's bytes; what is missing is noted."""
    found: list[Outlines] = []
    having, spent = holders(folder, sites, FILE), 0
    for at, site in enumerate(having):
        try:
            with kept(folder, site, FILE) as held:
                images = tuple(_outlined(held))
        except UNREADABLE:
            gaps.append(f"The outlines of {site} cannot be read.")
            continue
        spent += sum(image.size for image in images)
        if spent > _BYTES:
            gaps.append(f"The outlines of {len(having) - at} sites are left out to keep this page small.")
            break
        found.append(Outlines(site, images))
    return tuple(found)


def outline(mask: UInt8[np.ndarray, "h w"]) -> str:
    """An SVG path along the edges between pixels of other class numbers; outside the image is background."""
    framed = np.pad(mask, 1)
    level = _runs(framed[:-1, 1:-1] != framed[1:, 1:-1])
    upright = _runs((framed[1:-1, :-1] != framed[1:-1, 1:]).T)
    return "".join(
        [f"M{start},{y}H{end}" for y, start, end in level] + [f"M{x},{start}V{end}" for x, start, end in upright]
    )


def _runs(edges: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row, first, behind the last) of each row's runs of true values."""
    steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    for (row, first), (_, end) in zip(np.argwhere(steps == 1), np.argwhere(steps == -1), strict=True):
        yield int(row), int(first), int(end)


def _outlined(held: Mapping[str, np.ndarray]) -> Iterator[Outlined]:
    images, truths, guesses, dice = (held[name] for name in ("images", "true_masks", "predicted_masks", "dice"))
    if images.ndim != 4 or not images.shape[:1] + images.shape[2:] == truths.shape == guesses.shape:
        raise ValueError("masks are of another shape than images")
    height, width = truths.shape[1:]
    side = max(height, width)
    for word, image, truth, guess, score in zip(_WORDS[len(images)], images, truths, guesses, dice, strict=True):
        yield Outlined(word, float(score), thumbnail(image, side), width, height, outline(truth), outline(guess))
