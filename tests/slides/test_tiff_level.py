"""Colours of all kinds become RGB alike in tiles and strips, or are refused by name."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from synthetic import paint_region

from zoomldm.errors import SlideError
from zoomldm.slides import open_slide
from zoomldm.slides.tiff_level import SegmentCache, TiffLevel
from zoomldm.slides.tifffile_backend import TifffileBackend

PICTURE = paint_region(230, 190, tissue=1.0)
MPP = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
LAYOUTS = {"tiles": {"tile": (64, 64)}, "strips": {"rowsperstrip": 40}, "one": {}}
CODECS = [None, "lzw", "zlib"]


def read(path, data, **options) -> np.ndarray:
    tifffile.imwrite(path, data, **MPP, **options)
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, 230, 190).astype(int)


def cmyk() -> np.ndarray:
    black = 255 - PICTURE.max(axis=2).astype(float)
    room = np.maximum(255 - black, 1)[..., None]
    inks = 255 - PICTURE * 255.0 / room
    return np.dstack([np.where(room > 1, inks, 0), black]).round().astype(np.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", CODECS)
def test_cmyk(tmp_path, layout, codec):
    options = LAYOUTS[layout] | {"compression": codec, "photometric": "separated"}
    assert np.abs(read(tmp_path / "a.tif", cmyk(), **options) - PICTURE).max() <= 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", CODECS)
def test_ycbcr(tmp_path, layout, codec):
    data = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
    options = LAYOUTS[layout] | {"compression": codec, "photometric": "ycbcr"}
    assert np.abs(read(tmp_path / "a.tif", data, **options) - PICTURE).max() <= 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fourth_sample_without_a_meaning(tmp_path, layout):
    data = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 30, np.uint8)])
    options = LAYOUTS[layout] | {"photometric": "rgb", "extrasamples": ["unspecified"]}
    assert (read(tmp_path / "a.tif", data, **options) == PICTURE).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fourth_sample_without_a_tag_is_opacity(tmp_path, layout):
    path = tmp_path / "a.tif"
    data = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 120, np.uint8)])
    options = LAYOUTS[layout] | {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    with_tag = read(path, data, **options)
    assert np.abs(with_tag - (PICTURE * (120 / 255) + 135)).max() <= 1
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].tags[338].offset
    with path.open("r+b") as file:  # another number for the tag: in its place it is unknown
        file.seek(offset)
        file.write((337).to_bytes(2, "little"))
    with open_slide(path) as slide:
        assert (slide.read(0, 0, 0, 230, 190) == with_tag).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inverted", [False, True])
def test_grey_with_opacity(tmp_path, layout, inverted):
    grey = PICTURE[..., 0]
    opacity = np.full_like(grey, 255)
    opacity[:100] = 0
    data = np.dstack([255 - grey if inverted else grey, opacity])
    options = LAYOUTS[layout] | {
        "photometric": "miniswhite" if inverted else "minisblack",
        "planarconfig": "contig",
        "extrasamples": ["unassalpha"],
    }
    found = read(tmp_path / "a.tif", data, **options)
    assert (found[:100] == 255).all() and (found[100:] == grey[100:, :, None]).all()


@pytest.mark.parametrize("kind", ["separated", "miniswhite", "ycbcr"])
def test_tiles_without_bytes_are_white(tmp_path, kind):
    path = tmp_path / "a.tif"
    shape = {"separated": (128, 128, 4), "miniswhite": (128, 128), "ycbcr": (128, 128, 3)}[kind]
    tile = np.full((64, 64, *shape[2:]), 77, np.uint8)
    tifffile.imwrite(
        path, iter([tile, None, None, tile]), shape=shape, dtype=np.uint8, tile=(64, 64),
        photometric=kind, compression="zlib", **MPP,
    )  # fmt: skip
    found = np.asarray(TifffileBackend(path, 1 << 20).read(0, 0, 0, 128, 128))
    assert (found[:64, 64:] >= 254).all() and (found[:64, :64] < 250).any()


REFUSED = {
    "CIELAB": (PICTURE, {"photometric": "cielab"}),
    "ICCLAB": (PICTURE, {"photometric": "icclab"}),
    "32 bits .float.": (PICTURE.astype(np.float32) / 255, {"photometric": "rgb"}),
    "8 bits .signed.": (PICTURE.astype(np.int8), {"photometric": "rgb"}),
    "several channels": (
        np.dstack([PICTURE, PICTURE[..., 0]]),
        {"photometric": "minisblack", "planarconfig": "contig"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path, layout, name):
    data, options = REFUSED[name]
    with pytest.raises(SlideError, match=f"a.tif.*{name}.*expected 8-bit RGB"):
        read(tmp_path / "a.tif", data, **options, **LAYOUTS[layout])


@pytest.mark.parametrize("layout", ["strips", "one"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PALETTE", {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
        ("4 bits", {"photometric": "minisblack", "bitspersample": 4}),
    ],
)
def test_refused_in_strips(tmp_path, layout, name, options):
    """In tiles, OpenSlide converts these as they are meant."""
    if "bitspersample" in options:
        try:
            imagecodecs.packints_encode(np.zeros(8, np.uint8), 4)
        except NotImplementedError:
            pytest.skip("this imagecodecs does not write 4 bits")
    with pytest.raises(SlideError, match=f"a.tif.*{name}.*expected 8-bit RGB"):
        read(tmp_path / "a.tif", PICTURE[..., 0] >> 4, **options, **LAYOUTS[layout])


def test_inks_that_are_not_cmyk(tmp_path):
    options = {"photometric": "separated", "extratags": [(332, 3, 1, 2, True)]}
    with pytest.raises(SlideError, match="SEPARATED"):
        read(tmp_path / "a.tif", cmyk(), **options)


def test_aperios_jpeg_2000_agrees_with_openslide(shared):
    path = shared / "fixtures/TCGA-CR-7395-jp2k-no-mpp.svs"
    with tifffile.TiffFile(path) as tiff, open_slide(path, 0.25) as slide:
        level = TiffLevel(tiff.pages[0], 0, SegmentCache(1 << 24))
        found = np.asarray(level.read(1000, 900, 300, 200)).astype(int)
        expected = slide._opened().read(0, 1000, 900, 300, 200).convert("RGB")
    assert np.abs(found - np.asarray(expected)).max() <= 2
