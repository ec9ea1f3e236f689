"""The eight symmetries of a square, on arrays of rows and columns."""

import numpy as np

TURNS = 8


def turn_array(values: np.ndarray, turn: int) -> np.ndarray:
    """Turn rows and columns (R, C, ...).

    Args:
        values: the array.
        turn: 0 to 7; from 4 on mirrored left to right first, then `turn % 4` quarter turns
            counter-clockwise.
    """
    return np.rot90(values[:, ::-1] if turn >= 4 else values, turn % 4)


def turn_back(values: np.ndarray, turn: int) -> np.ndarray:
    """Undo `turn_array`."""
    straight = np.rot90(values, -(turn % 4))
    return straight[:, ::-1] if turn >= 4 else straight
