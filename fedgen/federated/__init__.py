"""Federated rules for generators and classifiers of synthetic samples."""
