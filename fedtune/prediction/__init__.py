"""`fedpretrain predict`: tables and masks of new images."""
