"""Federated methods: FedDiffuse for diffusion models, FedVSS for classifiers."""
