"""Pyramids written and opened again."""

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from synthetic import paint_region

from zoomldm.errors import TargetError
from zoomldm.slides import open_slide
from zoomldm.writers.pyramid import PyramidLevel, write_pyramid


def tiles(picture):
    height, width = picture.shape[:2]
    for y in range(0, height, 256):
        for x in range(0, width, 256):
            tile = np.full((256, 256, 3), 255, np.uint8)
            part = picture[y : y + 256, x : x + 256]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def pyramid(picture, count=3):
    found = []
    for k in range(count):
        small = np.asarray(Image.fromarray(picture).reduce(2**k))
        found.append(PyramidLevel((small.shape[1], small.shape[0]), 0.5 * 2**k, tiles(small)))
    return found


PICTURE = paint_region(1100, 900, tissue=0.7)


def test_openslide_opens_all_levels(tmp_path):
    path = tmp_path / "a.tif"
    write_pyramid(path, pyramid(PICTURE), description='{"generated": "\u00e4"}', quality=90)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1100, 900), (550, 450), (275, 225))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
        got = np.asarray(slide.read_region((0, 0), 0, (1100, 900)).convert("RGB"), int)
        assert np.abs(got - PICTURE).mean() < 6
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff and len(tiff.pages) == 3
        assert tiff.pages[0].description == '{"generated": "\\xe4"}'
        assert [int(page.subfiletype) for page in tiff.pages] == [0, 1, 1]
        assert [page.tags.valueof(296) for page in tiff.pages] == [3, 3, 3]
    assert open_slide(path).level_sizes == [(1100, 900), (550, 450), (275, 225)]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_same_tiles_same_bytes(tmp_path):
    for name in "ab":
        write_pyramid(tmp_path / name, pyramid(PICTURE), description="x")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_coarse_first_page_keeps_its_mpp(tmp_path):
    write_pyramid(tmp_path / "a.tif", [PyramidLevel((1100, 900), 4.0, tiles(PICTURE))])
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(4.0)


def test_failure_leaves_nothing(tmp_path):
    level = PyramidLevel((1100, 900), 0.5, list(tiles(PICTURE))[:-1])
    with pytest.raises(ValueError, match="19 tiles given for a level of 20"):
        write_pyramid(tmp_path / "a.tif", [level])
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path):
    with pytest.raises(TargetError, match="does not exist"):
        write_pyramid(tmp_path / "none" / "a.tif", pyramid(PICTURE))


def test_order_of_levels(tmp_path):
    with pytest.raises(ValueError, match="finest"):
        write_pyramid(tmp_path / "a.tif", pyramid(PICTURE)[::-1])
