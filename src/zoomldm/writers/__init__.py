"""Image files: pyramids that other tools can open."""
