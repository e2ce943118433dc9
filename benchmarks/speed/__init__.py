"""Speed and memory: the last measurement, its date and its hardware are in the docstring of each file."""
