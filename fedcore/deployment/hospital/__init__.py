"""A hospital: its folder, its commands, and its part in runs."""
