"""Tissue tiles read in blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import paint_slide

from zoomldm.slides import open_slide, tiles
from zoomldm.slides.tiles import read_tiles, tile_boxes


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """40x, not quite twice 20x."""
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    return paint_slide(path, 3000, 2600, mpp=0.2526, tissue=0.6)


class TestReadTiles:
    @given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=50)))
    @settings(deadline=None)
    def test_boxes_hold_every_tile_once(self, mask):
        seen = np.zeros(mask.shape, int)
        for row0, row1, col0, col1 in tile_boxes(mask):
            assert 0 < row1 - row0 <= tiles.BLOCK
            assert 0 < col1 - col0 <= tiles.BLOCK
            seen[row0:row1, col0:col1] += 1
        assert seen.max(initial=0) <= 1
        assert (seen[mask] == 1).all()

    @given(st.data())
    @settings(deadline=None, max_examples=5)
    def test_tiles_are_those_of_single_reads(self, slide, data):
        with open_slide(slide) as opened:
            mask = data.draw(hnp.arrays(bool, opened.grid))
            found = dict(read_tiles(opened, mask))
            assert set(found) == {(int(r), int(c)) for r, c in np.argwhere(mask)}
            for row, col in list(found)[:4]:
                tile = opened.read(0, col * 256, row * 256, 256, 256)
                assert np.abs(found[row, col].astype(int) - tile).max() <= 1
