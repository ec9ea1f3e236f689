"""Labels, padded levels and other pictures that are no smaller copy of the slide."""

import warnings

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from synthetic import paint_region

from zoomldm.slides import open_slide
from zoomldm.slides.stored_levels import stored_downsample, usable_levels
from zoomldm.slides.tissue import find_tissue

MPP = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
PICTURE = paint_region(1536, 1024, tissue=0.5)


def reduced(picture: np.ndarray, by: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).reduce(by))


def write(path, pages, **options):
    """A pyramid: the first page is the slide; a page is pixels or (pixels, options)."""
    with tifffile.TiffWriter(path) as tiff:
        for number, page in enumerate(pages):
            pixels, own = page if isinstance(page, tuple) else (page, {})
            tiff.write(
                np.ascontiguousarray(pixels),
                **{"photometric": "rgb", "compression": "zlib", "tile": (64, 64)}
                | {"subfiletype": 1 if number else 0, **MPP, **options}
                | own,
            )
    return path


def label(width: int, height: int) -> np.ndarray:
    return np.tile(np.uint8([[[250, 40, 40]]]), (height, width, 1))


def level(slide, k):
    return slide.read(k, 0, 0, *slide.level_size(k)).astype(int)


def test_label_is_no_level(tmp_path):
    whole = open_slide(write(tmp_path / "a.tif", [PICTURE]))
    path = write(tmp_path / "b.tif", [PICTURE, reduced(PICTURE, 4), label(190, 140)])
    with pytest.warns(UserWarning, match=r"190 x 140 px is no smaller copy .*not used"):
        slide = open_slide(path)
    assert (190, 140) not in slide.level_sizes
    for k in (2, 4, 5):
        assert np.abs(level(slide, k) - level(whole, k)).mean() < 3
    np.testing.assert_array_equal(find_tissue(slide).mask, find_tissue(whole).mask)


def test_label_of_the_slides_proportions(tmp_path):
    pages = [PICTURE, (label(192, 128), {"description": "Aperio Image Library\nlabel 192x128"})]
    with pytest.warns(UserWarning, match="192 x 128"):
        slide = open_slide(write(tmp_path / "a.tif", pages))
    assert slide.level_sizes == [(1536, 1024)]


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}])
def test_padded_levels(tmp_path, options):
    """Philips' export fills levels up to whole tiles; the last, of one tile, can't be told."""
    picture = PICTURE[:1001, :1501]
    pages = [picture]
    for by in (4, 16, 32):
        small = reduced(picture, by)
        sides = [-(-n // 64) * 64 - n for n in small.shape[:2]]
        pad = [(0, n) for n in sides]
        pages.append(np.pad(small, [*pad, (0, 0)], constant_values=255))
    with tifffile.TiffWriter(tmp_path / "a.tif", **options) as tiff:
        for n, page in enumerate(pages):
            tiff.write(
                page, photometric="rgb", compression="zlib", tile=(64, 64), subfiletype=n > 0, **MPP
            )
    whole = open_slide(write(tmp_path / "b.tif", [picture]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slide = open_slide(tmp_path / "a.tif")
    assert slide.level_sizes[:3] == [(1501, 1001), (376, 251), (94, 63)]
    for k in range(1, 7):
        assert np.abs(level(slide, k) - level(whole, k)).mean() < 4
    np.testing.assert_array_equal(find_tissue(slide).mask, find_tissue(whole).mask)


def test_what_is_padded_cannot_always_be_told():
    native = (1501, 1001)
    assert usable_levels([native, (384, 256)], [(64, 64)] * 2)[0][1].size == (376, 251)
    assert usable_levels([native, (128, 64)], [None] * 2) == ([(0, native)], [1])
    assert usable_levels([native, (64, 64)], [(64, 64)] * 2) == ([(0, native)], [1])


@given(
    native=st.tuples(st.integers(2000, 60000), st.integers(2000, 60000)),
    downs=st.lists(st.sampled_from([2, 3, 4, 8, 10, 16, 32]), min_size=1, max_size=4, unique=True),
    up=st.booleans(),
    tiled=st.booleans(),
)
def test_rounded_levels_are_kept(native, downs, up, tiled):
    sizes = [native] + [tuple(-(-n // d) if up else n // d for n in native) for d in sorted(downs)]
    levels, others = usable_levels(sizes, [(256, 256) if tiled else None] * len(sizes))
    assert not others and [found.size for found in levels] == sizes


@given(
    native=st.tuples(st.integers(3000, 60000), st.integers(3000, 60000)),
    down=st.sampled_from([2, 4, 8]),
)
def test_padding_is_taken_off(native, down):
    padded = tuple(-(-n // (down * 128)) * 128 for n in native)
    levels, others = usable_levels([native, padded], [(128, 128)] * 2)
    assert not others
    assert stored_downsample(native, levels[1].size) == (down, down)
