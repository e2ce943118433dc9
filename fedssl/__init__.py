"""Federated self-supervised pretraining."""
