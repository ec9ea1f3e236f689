"""The image to write: its levels, and the blocks of tiles in which it is rendered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomldm.geometry.levels import TILE

SIDE = 4  # tiles along a block at its finest level
STOREY = 3  # levels that a block spans


@dataclass(frozen=True)
class Level:
    """One level of an image.

    Attributes:
        name: label, such as `5x`.
        size: width, height (px).
        mpp: micrometres per pixel.
        origin: whether its pixels are the slide's own or generated.
    """

    name: str
    size: tuple[int, int]
    mpp: float
    origin: Literal["real", "generated"]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of 256 px."""
        return -(-self.size[1] // TILE), -(-self.size[0] // TILE)


@dataclass(frozen=True)
class Part:
    """A rectangle of tiles of one level, in row-major order.

    Attributes:
        level: index in the image's levels, 0 for the finest.
        row: first row of tiles.
        col: first column.
        rows: number of rows.
        cols: number of columns.
    """

    level: int
    row: int
    col: int
    rows: int
    cols: int


@dataclass(frozen=True)
class Block:
    """A unit of rendering, storage and progress: a square of the slide at up to three levels.

    Attributes:
        index: position in the image's order of blocks.
        parts: finest first.
    """

    index: int
    parts: tuple[Part, ...]

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return sum(part.rows * part.cols for part in self.parts)


@dataclass(frozen=True)
class Image:
    """Levels of an image, finest first, each half the size (rounded up) of the one before.

    Raises:
        ValueError: no levels, or sizes that don't halve.
    """

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("an image has at least one level")
        for fine, coarse in pairwise(self.levels):
            half = -(-fine.size[0] // 2), -(-fine.size[1] // 2)
            if coarse.size != half or coarse.mpp <= fine.mpp:
                raise ValueError(f"level {coarse} after {fine}; expected one of size {half}")

    def _storeys(self) -> Iterator[tuple[int, int, int, int]]:
        """Finest level, rows and columns of blocks, and first index of each storey."""
        first = 0
        for finest in range(0, len(self.levels), STOREY):
            rows, cols = (-(-n // SIDE) for n in self.levels[finest].grid)
            yield finest, rows, cols, first
            first += rows * cols

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return sum(rows * cols for _, rows, cols, _ in self._storeys())

    def block(self, index: int) -> Block:
        """A block by its index: row-major, blocks of the finest levels before coarser ones."""
        for finest, rows, cols, first in self._storeys():
            if index < first + rows * cols:
                place = divmod(index - first, cols)
                return Block(index, tuple(self._parts(finest, *place)))
        raise IndexError(f"block {index} of {self.block_count}")

    def _parts(self, finest: int, row: int, col: int) -> Iterator[Part]:
        for level in range(finest, min(finest + STOREY, len(self.levels))):
            side = SIDE >> (level - finest)
            rows, cols = self.levels[level].grid
            top, left = row * side, col * side
            yield Part(level, top, left, min(side, rows - top), min(side, cols - left))

    def row_of_blocks(self, level: int, row: int) -> Iterator[Block]:
        """Blocks that contain a row of tiles of a level, from left to right."""
        for finest, _, cols, first in self._storeys():
            if finest <= level < finest + STOREY:
                start = first + row // (SIDE >> (level - finest)) * cols
                yield from (self.block(start + col) for col in range(cols))


class Source(Protocol):
    """Pixels of an image, as a function of position only."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region inside a level of the image, (height, width, 3) uint8 sRGB."""
        ...

    def notes(self, block: Block) -> dict[str, Any]:
        """Further values to store for a block, once its pixels were read; plain JSON values."""
        ...


def part_pixels(source: Source, image: Image, part: Part) -> NDArray[np.uint8]:
    """Pixels of a part up to the level's edge, (height, width, 3)."""
    wide, high = image.levels[part.level].size
    x, y = part.col * TILE, part.row * TILE
    return source.read(
        part.level, x, y, min(part.cols * TILE, wide - x), min(part.rows * TILE, high - y)
    )


def part_tiles(pixels: NDArray[np.uint8], pad: bool = True) -> Iterator[NDArray[np.uint8]]:
    """Tiles of a part's pixels in row-major order; edge tiles are padded with white, or smaller."""
    for y in range(0, pixels.shape[0], TILE):
        for x in range(0, pixels.shape[1], TILE):
            tile = pixels[y : y + TILE, x : x + TILE]
            if pad and tile.shape[:2] != (TILE, TILE):
                whole = np.full((TILE, TILE, 3), 255, np.uint8)
                whole[: tile.shape[0], : tile.shape[1]] = tile
                tile = whole
            yield np.ascontiguousarray(tile)


def coarsest_pixels(tiles: Sequence[NDArray[np.uint8]], level: Level) -> NDArray[np.uint8]:
    """Assemble a whole level, (height, width, 3), from its tiles in row-major order."""
    rows, cols = level.grid
    out = np.full((rows * TILE, cols * TILE, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = (n * TILE for n in divmod(place, cols))
        out[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return out[: level.size[1], : level.size[0]]
