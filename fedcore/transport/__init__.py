"""Ways to reach the sites."""
