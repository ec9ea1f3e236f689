"""Models of bags."""
