"""Archive to archive: tissue transplanted, or interpolated between two places."""
