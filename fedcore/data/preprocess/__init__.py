"""From the image of a file to the arrays that are trained on."""
