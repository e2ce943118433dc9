"""How much of an image a scaling clips, to warn about a window in the wrong units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedcore.data.preprocess.scaling import Pixels


class Clipping(NamedTuple):
    """Of one image; its foreground are the voxels above its least value."""

    low: float = 0.0
    """Fraction of the foreground that became -1."""
    high: float = 0.0
    """Fraction of the foreground that became 1, without voxels of the image's greatest value."""
    span: float = 2.0
    """From the least to the greatest scaled value; the full range is 2."""


UNCLIPPED = Clipping()
LIMITS = Clipping(low=0.9, high=0.25, span=0.5)
"""Limits on the means over a site's images, beyond which there is a warning. With a window for soft tissue, air may
fill most of an image; pixels too bright for a window rarely fill a quarter."""


def clipping_of(raw: Pixels, scaled: Pixels) -> Clipping:
    """A flat background, at the image's least or greatest value, does not count as clipped."""
    above, below = raw > raw.min(), raw < raw.max()
    if not (foreground := int(above.sum())):
        return UNCLIPPED
    low, high = int(((scaled == -1) & above).sum()), int(((scaled == 1) & above & below).sum())
    return Clipping(low / foreground, high / foreground, float(scaled.max() - scaled.min()))


def clipping_warnings(site: str, images: Sequence[Clipping]) -> list[str]:
    """For a site whose images are clipped strongly on average."""
    if not images:
        return []
    low, high, span = np.mean(images, axis=0).tolist()
    warnings = []
    if low > LIMITS.low:
        warnings.append(f"{low:.0%} of the foreground is below the lower end and becomes -1 (limit {LIMITS.low:.0%})")
    if high > LIMITS.high:
        warnings.append(f"{high:.0%} of the foreground is above the upper end and becomes 1 (limit {LIMITS.high:.0%})")
    if span < LIMITS.span:
        warnings.append(f"an image covers {span / 2:.0%} of the range from -1 to 1 (limit {LIMITS.span / 2:.0%})")
    return [
        f"site '{site}', data.scaling: {each}; check that its ends are in the units of the files" for each in warnings
    ]
