"""Pipelines: several commands in order, defined by one YAML file."""
