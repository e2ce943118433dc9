"""Aggregation rules at the server."""
