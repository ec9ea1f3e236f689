"""Windows of rasters: pixels, grids and shifts are of one place; withheld tissue stays out."""

import numpy as np
import pytest

from zoomldm.data.rasters import (
    FINE,
    MARGIN,
    SIDE,
    TOKEN,
    Raster,
    RasterPatches,
    coarser,
    cut,
    halved,
    tiles_of,
)

ROWS, COLS = 12, 10


@pytest.fixture
def raster() -> Raster:
    """Every pixel and every embedding says which tile it is of: row in red, column in green."""
    row, col = np.mgrid[:ROWS, :COLS]
    tiles = np.stack([row * 8 + 40, col * 8 + 40, np.full_like(row, 128)], 2).astype(np.uint8)
    mask = np.zeros((ROWS, COLS), bool)
    mask[2:10, 1:9] = True
    withheld = np.zeros_like(mask)
    withheld[8:10, 6:9] = True
    return Raster(
        coarser(tiles.repeat(SIDE, 0).repeat(SIDE, 1)),
        tiles.astype(np.float16),
        np.full(3, 255, np.float16),
        mask,
        withheld,
    )


def test_halving_averages_and_fills_up_with_white() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, 2) * 10
    half = halved(image)
    assert half.shape == (2, 2, 3)
    assert half[0, 0, 0] == 20
    assert half[1, 1, 0] == round((80 + 3 * 255) / 4)


def test_cut_fills_outside() -> None:
    values = np.arange(4).reshape(2, 2)
    np.testing.assert_array_equal(cut(values, -1, 1, 2, 2, 9), [[9, 9], [1, 9]])


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_pixels_and_grid_are_of_one_place(raster: Raster, level: int) -> None:
    sampled = RasterPatches([raster]).draw(np.random.default_rng(level), level, 12)
    side = (1 << level) + (level < FINE)
    assert sampled.grids.shape == (12, side, side, 3)
    tile = SIDE >> level
    for i in range(12):
        down, across = (0, 0) if sampled.shifts is None else sampled.shifts[i] * TOKEN
        assert max(down, across) < tile
        for y in range(0, SIDE, 4):
            for x in range(0, SIDE, 4):
                expected = sampled.grids[i, (y + down) // tile, (x + across) // tile]
                np.testing.assert_allclose(sampled.pixels[i, y, x], expected, atol=1)
        np.testing.assert_array_equal(
            sampled.around[i][MARGIN:-MARGIN, MARGIN:-MARGIN], sampled.pixels[i]
        )


@pytest.mark.parametrize("level", range(8))
def test_withheld_tissue_is_in_one_set_only(raster: Raster, level: int) -> None:
    withheld = RasterPatches([raster], withheld=True)
    rest = RasterPatches([raster])
    rng = np.random.default_rng(level)
    for store, wanted in ((rest, False), (withheld, True)):
        for _ in range(30):
            place = store._place(rng, 0, level)
            if not store._fits(raster, level, *place):
                continue  # no such place was found
            row, col = (tiles_of(level, p) for p in place)
            high, wide = (
                -(-((p + SIDE) << level) // SIDE) - t
                for p, t in zip(place, (row, col), strict=True)
            )
            tissue = cut(raster.mask, row, col, high, wide, False).sum()
            held = cut(raster.withheld, row, col, high, wide, False).sum()
            assert tissue
            if wanted:
                assert held * 2 > tissue
            elif level < FINE:
                assert not held
            else:
                assert held * 2 <= tissue


def test_drawing_is_a_function_of_the_generator(raster: Raster) -> None:
    patches = RasterPatches([raster])
    one, other = (patches.draw(np.random.default_rng(5), 2, 4) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.grids, other.grids)
