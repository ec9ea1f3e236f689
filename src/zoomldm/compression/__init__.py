"""Slide to archive."""
