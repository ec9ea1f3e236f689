"""Places in archives as users write them, and blocks of tiles."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.errors import ConfigError, RegionError
from zoomldm.geometry.levels import TILE
from zoomldm.remote import RemotePath, as_path

_PLACE = r"(?:(.+?)@)?(\d+),(\d+)"


@dataclass(frozen=True)
class Place:
    """A pixel of an archive's 0.5 mpp raster.

    Attributes:
        archive: the archive, a file or a URL; None for the one being edited.
        x: column of the pixel.
        y: row of the pixel.
    """

    archive: Path | RemotePath | None
    x: int
    y: int


def parse_place(text: str) -> Place:
    """Parse a place from `ARCHIVE@X,Y` or `X,Y`.

    Raises:
        ConfigError: neither.

    Examples:
        >>> parse_place("512,256")
        Place(archive=None, x=512, y=256)
        >>> str(parse_place("s3://bucket/slide.zldm@512,256").archive)
        's3://bucket/slide.zldm'
    """
    found = re.fullmatch(_PLACE, text)
    if not found:
        raise ConfigError(
            f"place {text!r}: expected ARCHIVE@X,Y, or X,Y in the same archive, in whole pixels "
            "at 0.5 mpp"
        )
    return _place(*found.groups())


def parse_interpolation(text: str) -> tuple[Place, Place, int]:
    """Parse two places and the number of steps from `A,B,STEPS`; for A and B see `parse_place`.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(rf"{_PLACE},{_PLACE},(\d+)", text)
    if not found:
        raise ConfigError(
            f"interpolation {text!r}: expected A,B,STEPS, where A and B are ARCHIVE@X,Y, or X,Y "
            "in the same archive"
        )
    parts = found.groups()
    return _place(*parts[:3]), _place(*parts[3:6]), int(parts[6])


def _place(archive: str | None, x: str, y: str) -> Place:
    return Place(as_path(archive) if archive else None, int(x), int(y))


@dataclass(frozen=True)
class Block:
    """A rectangle of tiles of one archive's grid."""

    row: int
    col: int
    rows: int
    cols: int

    @property
    def window(self) -> tuple[int, int, int, int]:
        """x, y, w, h in px of the 0.5 mpp raster."""
        return self.col * TILE, self.row * TILE, self.cols * TILE, self.rows * TILE

    def of(self, tiles: NDArray) -> NDArray:
        """This block's part of an array (rows, cols, ...) of all tiles."""
        return tiles[self.row : self.row + self.rows, self.col : self.col + self.cols]


def block_of(archive: Archive, x: int, y: int, width: int, height: int, what: str) -> Block:
    """The block of tiles of a region in px of the 0.5 mpp raster, which must be whole tiles.

    Raises:
        RegionError: not whole tiles, empty, or not inside the grid.
    """
    if any(n % TILE for n in (x, y, width, height)):
        near = ",".join(str(round(n / TILE) * TILE) for n in (x, y, width, height))
        raise RegionError(
            f"{what} {x},{y},{width},{height} is not of whole tiles; expected multiples of "
            f"{TILE}, such as {near}"
        )
    right, bottom = archive.cols * TILE, archive.rows * TILE
    if min(width, height) < 1 or min(x, y) < 0 or x + width > right or y + height > bottom:
        raise RegionError(
            f"{what} {x},{y},{width},{height} is not inside {archive.path}, whose tiles reach "
            f"{right} x {bottom} px"
        )
    return Block(y // TILE, x // TILE, height // TILE, width // TILE)


def embeddings_of(archive: Archive, block: Block) -> NDArray[np.float32]:
    """Embeddings (rows, cols, D) of a block; the background's where a tile is not tissue."""
    return archive.embeddings(block.row, block.row + block.rows, block.col, block.col + block.cols)
