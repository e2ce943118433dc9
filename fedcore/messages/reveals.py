"""What a value that leaves a site gives away about patients."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Reveals(IntEnum):
    """What a field gives away about patients, in rising order of risk."""

    WEIGHTS = 0
    """Model weights, and what goes with every answer: the number of images and the seconds it took."""
    STATISTICS = 1
    """Statistics over images: scores, mean losses, moments, counts."""
    FEATURES = 2
    """Feature vectors of single images."""
    SAMPLES = 3
    """Images, or samples like them."""


WEIGHTS, STATISTICS, FEATURES, SAMPLES = ({"reveals": level} for level in Reveals)
Levels = Mapping[str, Reveals]
"""Tensor of a module's state -> what it reveals, where that is more than WEIGHTS (`fedcore.privacy.buffers`)."""
NO_LEVELS: Levels = {}
