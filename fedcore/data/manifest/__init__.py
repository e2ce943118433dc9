"""The manifest: a CSV with one row per image, and what must hold in it."""
