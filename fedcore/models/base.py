"""What an encoder is: a network from images (n, c, *space) to features (n, width), in 2D and 3D.

Encoders are in fedcore because fedssl pretrains them, and fedtune starts from them.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class Encoder(nn.Module):
    """Base class of encoders; a subclass sets both attributes."""

    width: int
    """Length of a feature."""
    config: dict[str, Any]
    """Arguments of the constructor that builds this encoder again."""
