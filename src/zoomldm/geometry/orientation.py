"""The eight orientations (symmetries of a square) of arrays of rows and columns."""

import numpy as np

TURNS = 8


def turn_array(values: np.ndarray, orientation: int) -> np.ndarray:
    """Reorient the rows and columns of an array (R, C, ...).

    Args:
        values: the array.
        orientation: 0 to 7; from 4 on, mirrored left to right first; then rotated by
            `orientation % 4` quarter turns counter-clockwise.

    Examples:
        >>> turn_array(np.array([[1, 2], [3, 4]]), 1).tolist()
        [[2, 4], [1, 3]]
    """
    return np.rot90(values[:, ::-1] if orientation >= 4 else values, orientation % 4)


def turn_back(values: np.ndarray, orientation: int) -> np.ndarray:
    """Undo `turn_array`.

    Examples:
        >>> turn_back(turn_array(np.array([[1, 2], [3, 4]]), 6), 6).tolist()
        [[1, 2], [3, 4]]
    """
    straight = np.rot90(values, -(orientation % 4))
    return straight[:, ::-1] if orientation >= 4 else straight


def straight_corners(
    places: np.ndarray, side: int, size: tuple[int, int], orientation: int
) -> np.ndarray:
    """Positions of squares of a reoriented raster on the original raster.

    Args:
        places: (N, 2) x and y of their top-left corners on the reoriented raster, px.
        side: side of the squares, px.
        size: (width, height) of the reoriented raster, px.
        orientation: 0 to 7.

    Returns:
        (N, 2) x and y of their top-left corners.
    """
    x, y = places[:, 0], places[:, 1]
    width, height = size
    for _ in range(orientation % 4):
        x, y = height - y - side, x
        width, height = height, width
    if orientation >= 4:
        x = width - x - side
    return np.stack([x, y], 1)
