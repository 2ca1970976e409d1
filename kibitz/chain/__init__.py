"""The steps of the chain from games to SHIFT; each returns its numbers and what the report shows of them."""
