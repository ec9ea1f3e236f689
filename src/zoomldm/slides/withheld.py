"""The block of tissue that a training slide keeps out of training."""

import math

import numpy as np

from zoomldm.slides.turned import turn_array, turn_back


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
