"""`fedpretrain predict`: classes and masks of new images."""
