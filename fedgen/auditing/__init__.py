"""The audit of a synthetic set: privacy, and fitness for use."""
