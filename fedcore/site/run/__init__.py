"""What a site notes of one run, besides its memory: how it began, and the weights that it started from."""
