"""How often each level is drawn."""

import numpy as np
import pytest

from zoomldm.training.balance import draw_levels


def test_equal_shares_fill_every_batch_evenly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        levels = draw_levels(rng, 32, [5, 900, 1, 7], power=0)
        assert np.bincount(levels).tolist() == [8, 8, 8, 8]
        assert (np.diff(levels) >= 0).all()


@pytest.mark.parametrize("size", [3, 32])
def test_shares_by_number(size: int) -> None:
    rng, counts = np.random.default_rng(0), np.array([1600, 400, 100, 4])
    levels = np.concatenate([draw_levels(rng, size, counts, 0.5) for _ in range(6000 // size)])
    found = np.bincount(levels, minlength=4) / len(levels)
    np.testing.assert_allclose(found, np.array([40, 20, 10, 2]) / 72, atol=0.015)
    whole = draw_levels(rng, 6000, counts, 1)
    np.testing.assert_allclose(np.bincount(whole) / 6000, counts / counts.sum(), atol=1e-3)


def test_no_step_has_more_than_its_share_or_less() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        counts = np.bincount(draw_levels(rng, 9, [4, 1], 0.5))
        assert counts.tolist() == [6, 3]


def test_one_level() -> None:
    assert draw_levels(np.random.default_rng(0), 4, [3], 0.5).tolist() == [0] * 4
