"""Encoders and classifiers, and their files."""
