"""The release of a synthetic set: its folder, datasheet and contact sheets."""
