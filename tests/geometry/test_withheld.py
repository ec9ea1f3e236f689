"""The block kept out of training."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoomldm.geometry.withheld import withheld_block


@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_is_a_fraction_of_the_tissue(mask, fraction):
    block = withheld_block(mask, fraction)
    assert block.sum() == math.ceil(round(fraction * mask.sum(), 9))
    assert not (block & ~mask).any()


def test_full_grid_gives_the_far_corner():
    block = withheld_block(np.ones((10, 10), bool), 0.09)
    assert (np.argwhere(block) >= 7).all() and block.sum() == 9


def test_order_is_distance_row_col():
    mask = np.zeros((4, 4), bool)
    mask[3, 3] = mask[2, 2] = mask[2, 3] = mask[0, 0] = True
    expected = np.zeros((4, 4), bool)
    expected[3, 3] = expected[2, 2] = True
    assert (withheld_block(mask, 0.5) == expected).all()
