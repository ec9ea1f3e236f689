"""Archives and slides as training and evaluation data."""
