"""Classifiers and their training."""
