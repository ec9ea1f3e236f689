"""Read many tiles of a slide, a block at a time."""

from collections.abc import Iterator

import numpy as np

from zoomldm.geometry.levels import TILE
from zoomldm.slides.ahead import MANY, in_order
from zoomldm.slides.backend import SlideReadError
from zoomldm.slides.slide import Slide

BLOCK = 2  # side in tiles of a block that is read at once
STRIPE = 16  # width in tiles of a stripe read downwards: decoded neighbours stay in the cache


def tile_boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of tiles (row0, row1, col0, col1) to read at once; together they cover the mask."""
    rows, cols = mask.shape
    boxes = []
    for stripe in range(0, cols, STRIPE):
        for row in range(0, rows, BLOCK):
            for col in range(stripe, min(stripe + STRIPE, cols), BLOCK):
                r, c = np.nonzero(mask[row : row + BLOCK, col : col + BLOCK])
                if len(r):
                    first, last = (row + r.min(), col + c.min()), (row + r.max(), col + c.max())
                    boxes.append((int(first[0]), int(last[0]) + 1, int(first[1]), int(last[1]) + 1))
    return boxes


def read_tiles(
    slide: Slide, mask: np.ndarray, ahead: int = 0
) -> Iterator[tuple[tuple[int, int], np.ndarray | None]]:
    """Yield tissue tiles as ((row, column), pixels (256, 256, 3) or None), reading ahead.

    Pixels are None if the tile can't be read.

    Args:
        slide: an open slide.
        mask: bool (rows, cols); tiles to read.
        ahead: approximate number of tiles to read before they are requested, 0.2 MB each. Use the
            caller's batch size, so that reading continues while a batch is processed.
    """

    def read(box: tuple[int, int, int, int]) -> list[tuple[tuple[int, int], np.ndarray | None]]:
        row0, row1, col0, col1 = box
        inside = [(r, c) for r in range(row0, row1) for c in range(col0, col1) if mask[r, c]]
        try:
            pixels = slide.read(
                0, col0 * TILE, row0 * TILE, (col1 - col0) * TILE, (row1 - row0) * TILE
            )
        except SlideReadError:
            return [((r, c), _tile_or_none(slide, r, c)) for r, c in inside]
        return [
            (
                (r, c),
                pixels[
                    (r - row0) * TILE : (r - row0 + 1) * TILE,
                    (c - col0) * TILE : (c - col0 + 1) * TILE,
                ],
            )
            for r, c in inside
        ]

    for _, found in in_order(read, tile_boxes(mask), MANY, ahead // BLOCK**2):
        yield from found


def _tile_or_none(slide: Slide, row: int, col: int) -> np.ndarray | None:
    try:
        return slide.read(0, col * TILE, row * TILE, TILE, TILE)
    except SlideReadError:
        return None
