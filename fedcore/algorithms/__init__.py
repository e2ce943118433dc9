"""Federated algorithms: how sites cooperate, one file each."""
