"""The error of one image that cannot be used."""

from __future__ import annotations


class ImageError(ValueError):
    """Its text is short and for the user: it never contains a path or anything from a header."""
