"""The spatial hold-out: a block of tissue of a training slide that is withheld from training."""

import math

import numpy as np

from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import patch_tiles
from zoomldm.geometry.orientation import turn_array, turn_back

_SHARED_FROM = 4  # level from which a patch is about as large as a slide
_SHARED_MOST = 0.25  # fraction of its tissue that may then be withheld


def withheld_block(mask: np.ndarray, fraction: float = 0.1, orientation: int = 0) -> np.ndarray:
    """The tissue tiles of one contiguous block, which is the null in memorisation tests.

    The block grows from the tissue tile with the greatest row + column (the first such in
    row-major order) through tissue tiles by (Chebyshev distance, row, column).

    Args:
        mask: bool (rows, cols), the tissue.
        fraction: fraction of the tissue tiles, 0 to 1, rounded up.
        orientation: the slide's, 0 to 7; the block is the same tissue in every orientation.

    Returns:
        bool (rows, cols), a subset of `mask` with ceil(fraction * tissue) tiles.
    """
    if orientation:
        return turn_array(withheld_block(turn_back(mask, orientation), fraction), orientation)
    rows, cols = np.nonzero(mask)
    block = np.zeros(mask.shape, bool)
    if rows.size:
        anchor = int((rows + cols).argmax())
        distance = np.maximum(abs(rows - rows[anchor]), abs(cols - cols[anchor]))
        order = np.lexsort((cols, rows, distance))
        count = math.ceil(round(fraction * rows.size, 9))
        block[rows[order[:count]], cols[order[:count]]] = True
    return block


def is_withheld(
    mask: np.ndarray, block: np.ndarray, level: int, rows: np.ndarray, cols: np.ndarray
) -> np.ndarray:
    """Which patches the spatial hold-out excludes from training.

    At levels finer than 1.25x, any withheld tile excludes a patch. From there on, one patch covers
    most of a slide, and it is excluded if more than a quarter of its tissue tiles are withheld.

    Args:
        mask: bool (R, C), the tissue.
        block: bool (R, C), the withheld tiles.
        level: level of the patches.
        rows: (n,) first tile's row.
        cols: (n,) first tile's column.
    """
    side = patch_tiles(level)
    hit = tiles_within(block, rows, cols, side)
    if level < _SHARED_FROM:
        return hit > 0
    return hit > _SHARED_MOST * tiles_within(mask, rows, cols, side)
