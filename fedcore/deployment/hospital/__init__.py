"""The hospital: its folder, its commands, and what it checks before it takes part."""
