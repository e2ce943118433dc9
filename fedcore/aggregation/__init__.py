"""Server rules that turn the contributions of a round into one set of tensors."""
