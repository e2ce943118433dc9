"""Synthetic sets as training data: audit record, release criteria, mixing into batches."""
