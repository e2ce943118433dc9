"""Federated fine-tuning: classifiers and segmenters, their evaluation, and prediction."""
