"""Exchanges: what sites share in addition to weights."""
