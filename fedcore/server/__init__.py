"""The server's side: rounds, state, and the record of what was sent."""
