"""The numbers that a mask may hold: classes 0 (background) to 254, and 255 for pixels that are not annotated."""

from __future__ import annotations

from typing import Literal

UNLABELED = 255
"""The mask value of pixels that are not annotated, and of every pixel of an image without a mask."""
MAX_CLASS = 254
Mask255 = Literal["class", "unlabelled"]
"""Meaning of 255 in the files of masks: class 1, as in binary pictures, or not annotated."""
