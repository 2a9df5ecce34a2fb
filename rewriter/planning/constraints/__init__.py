"""Which layers may go, and the nearest selections that work."""
