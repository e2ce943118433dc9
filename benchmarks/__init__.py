"""Measurements; the last result, its date and its hardware stand in each file's docstring."""
