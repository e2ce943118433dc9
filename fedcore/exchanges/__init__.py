"""What sites share besides weights."""
