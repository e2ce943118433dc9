"""Files that are whole or absent, read within limits, with checksums."""
