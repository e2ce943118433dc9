"""From an image as its file has it to the arrays that are trained on."""
