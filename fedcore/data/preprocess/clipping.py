"""How much of an image a scaling takes away, so that a window in the wrong units does not pass unseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedcore.data.preprocess.scaling import Pixels


class Clipping(NamedTuple):
    """Of one image; foreground are the voxels above its least value."""

    low: float = 0.0
    """Share of the foreground that became -1."""
    high: float = 0.0
    """Share of the foreground that became 1, but for voxels of the image's greatest value."""
    span: float = 2.0
    """From the least to the greatest scaled value; all of the range is 2."""


UNCLIPPED = Clipping()
MOST = Clipping(low=0.9, high=0.25, span=0.5)
"""A site whose images are beyond one of these on average is told of. Air may fill most of an image under a window for
soft tissue; what is too bright for a window seldom fills a quarter."""


def clipping_of(raw: Pixels, scaled: Pixels) -> Clipping:
    """A flat background, at the image's least or greatest value, loses nothing by being clipped."""
    above, below = raw > raw.min(), raw < raw.max()
    if not (foreground := int(above.sum())):
        return UNCLIPPED
    low, high = int(((scaled == -1) & above).sum()), int(((scaled == 1) & above & below).sum())
    return Clipping(low / foreground, high / foreground, float(scaled.max() - scaled.min()))


def clipping_notes(site: str, images: Sequence[Clipping]) -> list[str]:
    """Of a site whose images lose much on average."""
    if not images:
        return []
    low, high, span = np.mean(images, axis=0).tolist()
    found = []
    if low > MOST.low:
        found.append(f"{low:.0%} of the foreground lies below the lower end and becomes -1 (told from {MOST.low:.0%})")
    if high > MOST.high:
        found.append(f"{high:.0%} of the foreground lies above the upper end and becomes 1 (told from {MOST.high:.0%})")
    if span < MOST.span:
        found.append(f"an image spans {span / 2:.0%} of the range from -1 to 1 (told below {MOST.span / 2:.0%})")
    return [f"site '{site}', data.scaling: {each}; are its ends in the units of the files?" for each in found]
