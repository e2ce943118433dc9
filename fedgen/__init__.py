"""Generators that hospitals train together, and the synthetic sets drawn from them."""
