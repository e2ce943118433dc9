"""Several commands in order, as one file says them."""
