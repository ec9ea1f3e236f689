"""The ladder's geometry."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomldm.errors import RegionError
from zoomldm.geometry import levels

sides = st.integers(1, 200_000)


def test_ladder():
    assert levels.COUNT == len(levels.NAMES) == 8
    for k, name in enumerate(levels.NAMES):
        assert levels.level_mpp(k) == 0.5 * 2**k
        assert float(name.removesuffix("x")) == 20 / 2**k
        assert levels.patch_tiles(k) == 2**k


@pytest.mark.parametrize("text", ["5x", "5", " 5X "])
def test_labels_of_a_level(text):
    assert levels.parse_level(text) == 2


@pytest.mark.parametrize("text", ["", "x", "40x", "5.0x", "seven", "-5x", "all"])
def test_levels_that_do_not_exist(text):
    with pytest.raises(RegionError, match=r"does not exist; levels are 20x, 10x") as error:
        levels.parse_level(text)
    assert "\n" not in str(error.value)


@given(sides, sides, st.floats(0.05, 5), st.floats(0.05, 5))
def test_raster_is_the_slide_at_half_a_micrometre(width, height, mpp_x, mpp_y):
    w, h = levels.raster_size(width, height, mpp_x, mpp_y)
    assert w >= 1 and h >= 1
    assert abs(w * 0.5 - width * mpp_x) <= 0.5 and abs(h * 0.5 - height * mpp_y) <= 0.5


@given(sides, sides)
def test_grid_covers_the_raster_with_no_tile_to_spare(width, height):
    rows, cols = levels.grid_shape(width, height)
    assert (rows - 1) * 256 < height <= rows * 256
    assert (cols - 1) * 256 < width <= cols * 256


@given(sides, sides, st.integers(0, 7))
def test_level_sizes_are_rounded_up(width, height, level):
    w, h = levels.level_size(width, height, level)
    assert (w, h) == (math.ceil(width / 2**level), math.ceil(height / 2**level))


@given(sides, sides, st.data())
def test_regions_inside_pass(width, height, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    assert levels.check_region((x, y, w, h), width, height) == (x, y, w, h)


@pytest.mark.parametrize(
    "region", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 101, 5), (96, 0, 5, 5), (0, 50, 1, 1)]
)
def test_regions_outside_are_errors(region):
    with pytest.raises(RegionError, match=r"not inside the slide; expected X,Y,W,H .* 100 x 50"):
        levels.check_region(region, 100, 50)
