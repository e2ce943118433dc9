"""Simulated hospitals with procedural images."""
