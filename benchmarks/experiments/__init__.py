"""The experiments of docs/results.md: each driver writes its numbers to docs/results.csv."""
