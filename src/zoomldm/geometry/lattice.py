"""Positions of patches on a mask of tissue tiles, and windows of a level: pure arithmetic."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zoomldm.geometry.levels import COUNT, TILE, patch_tiles

GROUP = 128  # patches requested at once: fills batches, bounds memory

Window = tuple[int, int, int, int]


def tiles_within(mask: np.ndarray, rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Number of True tiles in each square of `side` tiles that starts at (rows, cols).

    Args:
        mask: bool (R, C).
        rows: first tile's row; may lie outside the mask.
        cols: first tile's column; rows and cols broadcast against each other.
        side: tiles along a side.
    """
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    top, bottom = (np.clip(rows + d, 0, mask.shape[0]) for d in (0, side))
    left, right = (np.clip(cols + d, 0, mask.shape[1]) for d in (0, side))
    return total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]


def cut_square(
    values: np.ndarray, row: int, col: int, background: np.ndarray, out: np.ndarray
) -> None:
    """Fill a square from an array of tiles; tiles beyond the array are background.

    Args:
        values: (R, C, ...), one entry per tile.
        row: the square's first row; may lie outside the array.
        col: its first column.
        background: (...), the entry for tiles beyond the array.
        out: (side, side, ...), filled in place.
    """
    side = len(out)
    top, bottom = max(row, 0), min(row + side, values.shape[0])
    left, right = max(col, 0), min(col + side, values.shape[1])
    if (bottom - top, right - left) != (side, side):
        out[...] = background
    if bottom > top and right > left:
        out[top - row : bottom - row, left - col : right - col] = values[top:bottom, left:right]


def patch_offsets(mask: np.ndarray, level: int) -> np.ndarray:
    """First tiles of the training patches of a level: (n, 2) int, row and column.

    Patches lie at multiples of max(1, 2**level / 4) tiles, negative ones included, and each
    overlaps tissue.

    Args:
        mask: bool (rows, cols) of tissue tiles.
        level: 0 to 7.
    """
    side = patch_tiles(level)
    stride = max(1, side // 4)
    first = -(side - 1) // stride * stride
    r, c = (np.arange(first, count, stride) for count in mask.shape)
    i, j = np.nonzero(tiles_within(mask, r[:, None], c, side))
    return np.stack([r[i], c[j]], 1)


def tissue_patches(mask: NDArray[np.bool_], level: int) -> NDArray[np.int64]:
    """Canonical patches of a level that contain tissue: (n, 3) of row, column, tissue tiles.

    Rows and columns count patches, laid edge to edge from tile (0, 0).
    """
    side = patch_tiles(level)
    r, c = (np.arange(0, count, side) for count in mask.shape)
    tissue = tiles_within(mask, r[:, None], c, side)
    row, col = np.nonzero(tissue)
    return np.stack([row, col, tissue[row, col]], 1)


def level_window(region: Window, level: int) -> Window:
    """The pixels of a level that a region touches.

    Args:
        region: x, y, w, h in px of the 0.5 mpp raster.
        level: 0..7.

    Returns:
        x, y, w, h in px of the level: start rounded down, end rounded up.
    """
    x, y, w, h = region
    x0, y0 = x >> level, y >> level
    return x0, y0, -(-(x + w) >> level) - x0, -(-(y + h) >> level) - y0


def pyramid_windows(region: Window, finest: int) -> dict[int, Window]:
    """Windows of a region from level `finest` until it fits into one tile, or the coarsest level.

    Each is half the size of the one before, rounded up, as pyramid formats require.
    """
    windows: dict[int, Window] = {}
    _, _, width, height = level_window(region, finest)
    for level in range(finest, COUNT):
        x, y, _, _ = level_window(region, level)
        scale = 1 << (level - finest)
        windows[level] = x, y, -(-width // scale), -(-height // scale)
        if max(windows[level][2:]) <= TILE:
            break
    return windows


def densest_point(mask: NDArray[np.bool_], reach: int = 4) -> tuple[int, int]:
    """Centre (x, y), px of the 0.5 mpp raster, of the tissue tile with the most tissue around it.

    Args:
        mask: (rows, cols), True where a tile is tissue.
        reach: how many tiles on each side count.
    """
    r, c = (np.arange(count) - reach for count in mask.shape)
    around = np.where(mask, tiles_within(mask, r[:, None], c, 2 * reach + 1), -1)
    row, col = np.unravel_index(int(around.argmax()), mask.shape)
    return int(col) * TILE + TILE // 2, int(row) * TILE + TILE // 2


def patch_windows(point: tuple[int, int]) -> dict[int, Window]:
    """For each level, the window of the patch that contains a point of the 0.5 mpp raster."""
    places = {
        level: (point[1] // TILE >> level, point[0] // TILE >> level) for level in range(COUNT)
    }
    return {level: (c * TILE, r * TILE, TILE, TILE) for level, (r, c) in places.items()}


def grouped(rows: range, cols: range) -> Iterator[list[tuple[int, int]]]:
    """Positions of a block of patches in groups of about GROUP: whole rows, or parts of one."""
    high = max(1, GROUP // max(1, len(cols)))
    wide = max(1, min(len(cols), GROUP))
    for i in range(0, len(rows), high):
        for j in range(0, len(cols), wide):
            yield [(r, c) for r in rows[i : i + high] for c in cols[j : j + wide]]


def densest_region(
    mask: NDArray[np.bool_], size: tuple[int, int], side: int, fraction: float = 1.0
) -> tuple[int, int, int, int]:
    """The square whose tissue fraction is nearest to `fraction`: the highest one if that is 1.

    Args:
        mask: (rows, cols), True where a tile is tissue.
        size: width and height of the slide in px of the 0.5 mpp raster.
        side: of the square in px, a multiple of 256.
        fraction: 0 to 1.

    Returns:
        x, y, w, h in px of the 0.5 mpp raster.
    """
    tiles = side // TILE
    r, c = (np.arange(max(1, count - tiles + 1)) for count in mask.shape)
    inside = tiles_within(mask, r[:, None], c, tiles)
    apart = np.abs(inside - fraction * tiles * tiles)
    row, col = np.unravel_index(apart.argmin(), inside.shape)
    x, y = int(col) * TILE, int(row) * TILE
    return x, y, min(side, size[0] - x), min(side, size[1] - y)


def tissue_by_level(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """For each level, which patches contain any tissue."""
    out = [mask]
    for _ in range(COUNT - 1):
        fine = out[-1]
        rows, cols = fine.shape
        even = np.pad(fine, ((0, rows % 2), (0, cols % 2)))
        out.append(even[::2, ::2] | even[1::2, ::2] | even[::2, 1::2] | even[1::2, 1::2])
    return out
