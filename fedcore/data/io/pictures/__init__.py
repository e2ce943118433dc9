"""PNG, JPEG, BMP and TIFF to arrays."""
