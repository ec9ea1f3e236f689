"""Geometry: levels, positions of patches on a mask, orientation, spatial hold-out."""
