"""Places on a mask of tissue."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoomldm.geometry.lattice import (
    cut_square,
    densest_point,
    densest_region,
    tissue_by_level,
    tissue_patches,
)
from zoomldm.geometry.levels import TILE

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


def test_a_region_half_full() -> None:
    mask = np.zeros((8, 12), bool)
    mask[:, :6] = True
    x, y, w, h = densest_region(mask, (12 * 256, 8 * 256), 1024, 0.5)
    assert (x, y, w, h) == (4 * 256, 0, 1024, 1024)
    assert densest_region(mask, (12 * 256, 8 * 256), 1024)[:2] == (0, 0)


def test_densest_region() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3, 4] = mask[10:14, 20:24] = True
    x, y, w, h = densest_region(mask, (30 * 256, 20 * 256), 1024)
    assert (x, y, w, h) == (20 * 256, 10 * 256, 1024, 1024)


def test_region_stays_inside() -> None:
    mask = np.zeros((6, 6), bool)
    mask[5, 5] = True
    x, y, w, h = densest_region(mask, (1500, 1400), 1024)
    assert x + w <= 1500
    assert y + h <= 1400
    small = np.ones((2, 3), bool)
    assert densest_region(small, (700, 500), 1024) == (0, 0, 700, 500)


def count(mask: np.ndarray, row: int, col: int, side: int) -> int:
    """Tiles of a square, one by one."""
    return sum(
        bool(mask[r, c])
        for r in range(max(row, 0), min(row + side, mask.shape[0]))
        for c in range(max(col, 0), min(col + side, mask.shape[1]))
    )


@given(masks, st.integers(0, 5))
@settings(deadline=None)
def test_canonical_patches_hold_their_tissue(mask: np.ndarray, level: int) -> None:
    side = 2**level
    expected = [
        [r, c, n]
        for r in range(-(-mask.shape[0] // side))
        for c in range(-(-mask.shape[1] // side))
        if (n := count(mask, r * side, c * side, side))
    ]
    assert tissue_patches(mask, level).tolist() == expected
    places = np.argwhere(tissue_by_level(mask)[level]).tolist()
    assert places == [place[:2] for place in expected]


@given(masks, st.integers(0, 4))
@settings(deadline=None)
def test_densest_point_is_the_first_tile_with_most_around_it(mask: np.ndarray, reach: int) -> None:
    around = {
        (r, c): count(mask, r - reach, c - reach, 2 * reach + 1) for r, c in np.argwhere(mask)
    }
    r, c = max(around, key=lambda place: around[place]) if around else (0, 0)
    assert densest_point(mask, reach) == (c * TILE + TILE // 2, r * TILE + TILE // 2)


@given(st.integers(-5, 9), st.integers(-5, 9), st.sampled_from([1, 2, 4, 8]))
def test_squares_are_filled_up_with_background(row: int, col: int, side: int) -> None:
    values = np.arange(6 * 5 * 2).reshape(6, 5, 2)
    out = np.full((side, side, 2), -2)
    cut_square(values, row, col, np.array([-1, -1]), out)
    for r in range(side):
        for c in range(side):
            inside = 0 <= row + r < 6 and 0 <= col + c < 5
            expected = values[row + r, col + c] if inside else [-1, -1]
            assert out[r, c].tolist() == list(expected)
