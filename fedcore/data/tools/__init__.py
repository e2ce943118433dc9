"""`fedpretrain data`: check and preview a manifest."""
