"""Federated fine-tuning from pretrained encoders."""
