"""Federated algorithms, aggregators and callbacks made for self-supervised encoders."""
