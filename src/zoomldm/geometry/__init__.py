"""Where things are: levels, places of patches on a mask, orientation, spatial hold-out."""
