"""Evaluation at the sites: scores with intervals, computed from counts and sums that sites send."""
