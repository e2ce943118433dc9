"""Raw intensities to [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import InputError

Pixels = NDArray[np.float32]
"""(c, *space). No shape in the type: jaxtyping's types are classes, and jsonargparse takes a protocol whose
`__call__` gives a class for a factory of that class."""


@runtime_checkable
class Scaling(Protocol):
    """Maps one raw image to [-1, 1]; its `repr` is part of the cache's key, so it must contain all settings.

    A toy:
        >>> @dataclass(frozen=True)
        ... class Sign:
        ...     def __call__(self, image: Pixels) -> Pixels:
        ...         return np.sign(image)
    """

    def __call__(self, image: Pixels) -> Pixels:
        """Same shape, every value in [-1, 1]."""


@dataclass(frozen=True)
class Percentiles:
    """The low percentile of an image's foreground becomes -1, the high one 1; values beyond are clipped.

    Each image is scaled by itself, so that scales of sites may differ a thousandfold, and a positive affine change of
    the intensities has no effect. The foreground are the pixels above the image's minimum: a flat background (most of
    a brain MR, the padding of a CT) would otherwise determine both percentiles, and under an offset the background is
    the minimum, not zero. A constant image becomes all -1. MONAI's ScaleIntensityRangePercentiles uses the percentiles
    of all voxels, so it is equal for images without a flat background.
    """

    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise InputError(f"percentiles must hold 0 <= low < high <= 100, got {self.low} and {self.high}")

    def __call__(self, image: Pixels) -> Pixels:
        foreground = image[image > image.min()]
        if foreground.size == 0:
            return np.full_like(image, -1)
        low, high = np.percentile(foreground.astype(np.float64), (self.low, self.high))
        if low == high:  # a foreground of one value, as in a binary picture
            low = float(image.min())
        return _between(image, low, high)


@dataclass(frozen=True)
class Window:
    """A fixed range in the units of the image, such as Hounsfield: low becomes -1, high 1."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"a window must hold low < high, got {self.low} and {self.high}")

    def __call__(self, image: Pixels) -> Pixels:
        return _between(image, self.low, self.high)


@dataclass(frozen=True)
class FullRange:
    """0 becomes -1 and the largest value of `bits` bits 1, for images whose absolute brightness is meaningful."""

    bits: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise InputError(f"bits must lie in 1..32, got {self.bits}")

    def __call__(self, image: Pixels) -> Pixels:
        return _between(image, 0.0, 2.0**self.bits - 1)


def _between(image: np.ndarray, low: float, high: float) -> Pixels:
    """In double precision: float32 loses a narrow window at a large offset."""
    relative = (image.astype(np.float64) - low) / (high - low)
    return np.clip(2 * relative - 1, -1, 1).astype(np.float32)
