"""Damage to slides and archives, done on purpose."""

from pathlib import Path

import tifffile


def damage_tile(path: Path, index: int, page: int = 0) -> None:
    """Overwrite the JPEG tile `index` of a TIFF's page with zeros."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].dataoffsets[index]
        count = tiff.pages[page].databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
