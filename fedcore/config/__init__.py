"""Recipes and options: reading, checking, error messages, and whose code they may name."""
