"""Federated rules for self-supervised encoders."""
