"""Levels whose downsample is not whole are not shifted by where they are read from."""

import numpy as np
import tifffile
from synthetic import paint_region, paint_slide

from zoomldm.slides.openslide_backend import OpenSlideBackend


def test_odd_level_has_its_own_pixels(tmp_path):
    path = paint_slide(tmp_path / "odd.tif", 1401, 1203, levels=2, tissue=1.0)
    backend = OpenSlideBackend(path, 1 << 24)
    with tifffile.TiffFile(path) as tiff:
        stored = tiff.pages[1].asarray()
    assert backend.level_sizes[1] == (701, 602)
    for x, y in ((0, 0), (333, 201), (500, 401)):
        got = np.asarray(backend.read(1, x, y, 200, 200).convert("RGB"), np.int16)
        assert np.abs(got - stored[y : y + 200, x : x + 200]).max() <= 1


def test_cells_do_not_depend_on_the_region(tmp_path):
    picture = paint_region(1401, 1203, tissue=1.0)
    path = paint_slide(tmp_path / "odd.tif", 1401, 1203, levels=2, jpeg=False, picture=picture)
    backend = OpenSlideBackend(path, 1 << 24)
    backend._direct = {}  # as for a slide that is no TIFF
    large = np.asarray(backend.read(1, 101, 103, 500, 400))
    small = np.asarray(backend.read(1, 351, 253, 100, 60))
    assert (large[150:210, 250:350] == small).all()
