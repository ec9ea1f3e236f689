"""Places on a mask of tissue."""

import numpy as np

from zoomldm.geometry.lattice import densest_region


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
