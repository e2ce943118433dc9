"""Segmenters and their training."""
