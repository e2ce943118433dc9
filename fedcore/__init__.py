"""Rounds, sites, messages and data: everything federated that is neither a method nor a task."""
