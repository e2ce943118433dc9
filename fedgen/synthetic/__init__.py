"""Synthetic sets and their files."""
