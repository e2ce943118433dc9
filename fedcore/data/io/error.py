"""The reason why one image cannot be used."""

from __future__ import annotations


class ImageError(ValueError):
    """A short text for the user; never a path, never anything from a header."""
