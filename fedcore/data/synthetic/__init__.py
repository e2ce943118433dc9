"""Synthetic sets as data: audit record, release criteria, joining a run."""
