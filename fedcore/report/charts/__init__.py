"""Charts of a report: numbers to positions in an SVG."""
