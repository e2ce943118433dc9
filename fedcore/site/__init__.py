"""A site's side: its data, its memory, and what it keeps for its own page."""
