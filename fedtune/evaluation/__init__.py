"""Scores from counts that sites send."""
