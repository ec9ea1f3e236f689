"""The block of tissue that a training slide keeps out of training."""

import math

import numpy as np

from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import patch_tiles
from zoomldm.geometry.orientation import turn_array, turn_back

_SHARED_FROM = 4  # level from which a patch is about as large as a slide
_SHARED_MOST = 0.25  # share of its tissue that may then be withheld


def withheld_block(mask: np.ndarray, share: float = 0.1, turn: int = 0) -> np.ndarray:
    """The tissue tiles of one contiguous block, the null for memorisation tests.

    The block grows from the tissue tile with the greatest row + column (the first such in
    row-major order) through tissue tiles by (Chebyshev distance, row, column).

    Args:
        mask: bool (rows, cols), the tissue.
        share: of the tissue tiles, 0 to 1, rounded up.
        turn: how the slide was turned; the block is the same tissue whatever it is.

    Returns:
        bool (rows, cols), a subset of `mask` with ceil(share * tissue) tiles.
    """
    if turn:
        return turn_array(withheld_block(turn_back(mask, turn), share), turn)
    rows, cols = np.nonzero(mask)
    block = np.zeros(mask.shape, bool)
    if rows.size:
        anchor = int((rows + cols).argmax())
        distance = np.maximum(abs(rows - rows[anchor]), abs(cols - cols[anchor]))
        order = np.lexsort((cols, rows, distance))
        count = math.ceil(round(share * rows.size, 9))
        block[rows[order[:count]], cols[order[:count]]] = True
    return block


def is_withheld(
    mask: np.ndarray, block: np.ndarray, level: int, rows: np.ndarray, cols: np.ndarray
) -> np.ndarray:
    """Which patches the spatial hold-out region keeps out of training.

    Below 1.25x's level any withheld tile does; from there on, where one patch holds most of a
    slide, more than a quarter of its tissue tiles must be withheld.

    Args:
        mask: bool (R, C), the tissue.
        block: bool (R, C), the withheld tiles.
        level: of the patches.
        rows: (n,) first tile's row.
        cols: (n,) first tile's column.
    """
    side = patch_tiles(level)
    hit = tiles_within(block, rows, cols, side)
    if level < _SHARED_FROM:
        return hit > 0
    return hit > _SHARED_MOST * tiles_within(mask, rows, cols, side)
