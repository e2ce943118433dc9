"""Feature banks, and the exchanges that share their content between sites."""
