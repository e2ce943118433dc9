"""NVIDIA FLARE carries bytes between server and sites. No other folder imports it."""
