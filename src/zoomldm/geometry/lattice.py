"""Places of patches on a mask of tissue tiles, and windows of a level: arithmetic alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zoomldm.geometry.levels import COUNT, TILE, patch_tiles

GROUP = 128  # patches asked for at once: fills batches, bounds memory

Window = tuple[int, int, int, int]


def tiles_within(mask: np.ndarray, rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Number of True tiles in each square of `side` tiles that starts at (rows, cols).

    Args:
        mask: bool (R, C).
        rows: (n,) first tile's row, any offset, also outside.
        cols: (n,) first tile's column.
        side: tiles along a side.
    """
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    top, bottom = (np.clip(rows + d, 0, mask.shape[0]) for d in (0, side))
    left, right = (np.clip(cols + d, 0, mask.shape[1]) for d in (0, side))
    return total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]


def patch_offsets(mask: np.ndarray, level: int) -> np.ndarray:
    """Where the training patches of a level start: (n, 2) int, row and column in tiles.

    Patches lie at multiples of max(1, 2**level / 4) tiles, negative ones included, and each
    overlaps tissue.

    Args:
        mask: bool (rows, cols) of tissue tiles.
        level: 0 to 7.
    """
    side = 2**level
    stride = max(1, side // 4)
    rows, cols = mask.shape
    total = np.zeros((rows + 1, cols + 1), np.int64)
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    first = -(side - 1) // stride * stride
    r = np.arange(first, rows, stride)
    c = np.arange(first, cols, stride)
    r0, r1 = np.clip(r, 0, rows), np.clip(r + side, 0, rows)
    c0, c1 = np.clip(c, 0, cols), np.clip(c + side, 0, cols)
    inside = (
        total[np.ix_(r1, c1)]
        - total[np.ix_(r0, c1)]
        - total[np.ix_(r1, c0)]
        + total[np.ix_(r0, c0)]
    )
    i, j = np.nonzero(inside)
    return np.stack([r[i], c[j]], 1)


def tissue_patches(mask: NDArray[np.bool_], level: int) -> NDArray[np.int64]:
    """Canonical patches of a level that hold tissue: (n, 3) of row, column, tissue tiles.

    Rows and columns count patches, laid edge to edge from tile (0, 0).
    """
    side = patch_tiles(level)
    rows, cols = (-(-n // side) for n in mask.shape)
    whole = np.zeros((rows * side, cols * side), np.int64)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    tissue = whole.reshape(rows, side, cols, side).sum((1, 3))
    row, col = np.nonzero(tissue)
    return np.stack([row, col, tissue[row, col]], 1)


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


def grouped(rows: range, cols: range) -> Iterator[list[tuple[int, int]]]:
    """Places of a block of patches in groups of about GROUP: whole rows, or parts of one."""
    high = max(1, GROUP // max(1, len(cols)))
    wide = max(1, min(len(cols), GROUP))
    for i in range(0, len(rows), high):
        for j in range(0, len(cols), wide):
            yield [(r, c) for r in rows[i : i + high] for c in cols[j : j + wide]]


def densest_region(
    mask: NDArray[np.bool_], size: tuple[int, int], side: int
) -> tuple[int, int, int, int]:
    """The square of tiles with most tissue, as x, y, w, h in px of the 0.5 mpp raster."""
    tiles = side // TILE
    mask = np.pad(mask, [(0, max(0, tiles - n)) for n in mask.shape])
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), int)
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    inside = total[tiles:, tiles:] - total[:-tiles, tiles:]
    inside = inside - total[tiles:, :-tiles] + total[:-tiles, :-tiles]
    row, col = np.unravel_index(inside.argmax(), inside.shape)
    x, y = int(col) * TILE, int(row) * TILE
    return x, y, min(side, size[0] - x), min(side, size[1] - y)
