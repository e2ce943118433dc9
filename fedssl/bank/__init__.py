"""Feature banks, and the exchanges that share them."""
