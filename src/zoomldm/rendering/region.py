"""Regions of a slide at a level, and the tiles of an image of one."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zoomldm.levels import COUNT, TILE
from zoomldm.rendering.cascade import Cascade, Window, grouped


def level_window(region: Window, level: int) -> Window:
    """Pixels of a level that a region touches.

    Args:
        region: x, y, w, h in px of the 0.5 mpp raster.
        level: 0..7.

    Returns:
        x, y, w, h in px of the level: its start rounded down, its end up.
    """
    x, y, w, h = region
    x0, y0 = x >> level, y >> level
    return x0, y0, -(-(x + w) >> level) - x0, -(-(y + h) >> level) - y0


def pyramid_windows(region: Window, finest: int) -> dict[int, Window]:
    """Windows of a region from a level on, until it fits into one tile or the coarsest level."""
    windows: dict[int, Window] = {}
    for level in range(finest, COUNT):
        windows[level] = level_window(region, level)
        if max(windows[level][2:]) <= TILE:
            break
    return windows


def window_tiles(cascade: Cascade, level: int, window: Window) -> Iterator[NDArray[np.uint8]]:
    """Tiles (256, 256, 3) of a window from its own corner on, in row-major order.

    Beyond the window's right and lower edge they are white. Memory does not depend on the
    window's height, nor on its width beyond one strip.
    """
    x, y, width, height = window
    rows, cols = range(-(-height // TILE)), range(-(-width // TILE))
    for group in grouped(rows, cols):
        (row0, col0), (row1, col1) = group[0], group[-1]
        top, left = row0 * TILE, col0 * TILE
        bottom, right = min((row1 + 1) * TILE, height), min((col1 + 1) * TILE, width)
        strip = cascade.read(level, x + left, y + top, right - left, bottom - top)
        for row, col in group:
            part = strip[row * TILE - top :, col * TILE - left :][:TILE, :TILE]
            if part.shape == (TILE, TILE, 3):
                yield part
                continue
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def densest_point(mask: NDArray[np.bool_], reach: int = 4) -> tuple[int, int]:
    """Centre (x, y) in px of the 0.5 mpp raster of the tile with most tissue around it.

    Args:
        mask: (rows, cols), True where a tile is tissue.
        reach: tiles on each side that count.
    """
    span = 2 * reach + 1
    padded = np.pad(mask.astype(np.int64), ((reach + 1, reach), (reach + 1, reach)))
    total = padded.cumsum(0).cumsum(1)
    around = total[span:, span:] - total[:-span, span:] - total[span:, :-span]
    around += total[:-span, :-span]
    around = np.where(mask, around, -1)
    row, col = np.unravel_index(int(around.argmax()), mask.shape)
    return int(col) * TILE + TILE // 2, int(row) * TILE + TILE // 2


def patch_windows(point: tuple[int, int]) -> dict[int, Window]:
    """For each level, the window of the patch that holds a point of the 0.5 mpp raster."""
    places = {
        level: (point[1] // TILE >> level, point[0] // TILE >> level) for level in range(COUNT)
    }
    return {level: (c * TILE, r * TILE, TILE, TILE) for level, (r, c) in places.items()}
