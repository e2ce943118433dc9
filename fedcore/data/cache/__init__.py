"""Decoded images on disk, found again by the content of their files."""
