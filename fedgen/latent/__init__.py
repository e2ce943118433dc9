"""Autoencoders and latent diffusion."""
