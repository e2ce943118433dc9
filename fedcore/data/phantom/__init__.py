"""Simulated hospitals (phantoms) with procedural images."""
