"""Random augmentations in batches on the images' device, in 2D and 3D."""
