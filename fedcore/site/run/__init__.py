"""One run at a site, besides its memory: a trial before it, how it began, the weights that it started from."""
