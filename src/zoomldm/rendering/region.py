"""Regions of a slide at a level, and the tiles of an image of one."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zoomldm.geometry.lattice import Window, grouped
from zoomldm.geometry.levels import TILE
from zoomldm.rendering.renderer import Renderer


def window_tiles(renderer: Renderer, level: int, window: Window) -> Iterator[NDArray[np.uint8]]:
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
        strip = renderer.read(level, x + left, y + top, right - left, bottom - top)
        for row, col in group:
            part = strip[row * TILE - top :, col * TILE - left :][:TILE, :TILE]
            if part.shape == (TILE, TILE, 3):
                yield part
                continue
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
