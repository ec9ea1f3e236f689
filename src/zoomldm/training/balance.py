"""How often each level is drawn."""

from collections.abc import Sequence

import numpy as np


def draw_levels(
    rng: np.random.Generator, size: int, counts: Sequence[int], power: float
) -> np.ndarray:
    """Draw levels as indices (size,) into `counts`, ascending.

    Sampling is systematic: every step has as many of each level as its proportion allows.

    Args:
        rng: generator; one number is drawn.
        size: number of items.
        counts: patches of each level, above zero.
        power: levels are drawn in proportion to counts ** power; 0 draws all equally.
    """
    cumulative = np.cumsum(np.asarray(counts, float) ** power)
    points = (np.arange(size) + rng.random()) / size * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, points, side="right"), len(counts) - 1)
