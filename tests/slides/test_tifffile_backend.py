"""TIFFs that OpenSlide does not open."""

import numpy as np
import pytest
import tifffile
from synthetic import paint_region

from zoomldm.errors import SlideError
from zoomldm.slides import SlideReadError, open_slide
from zoomldm.slides.tiff_level import SegmentCache
from zoomldm.slides.tifffile_backend import TifffileBackend

PICTURE = paint_region(430, 390, tissue=1.0)
MPP = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
WAYS = {
    "strips": {"rowsperstrip": 17, "compression": "zlib"},
    "one-strip": {"compression": "zlib"},
    "raw": {},
    "raw-strips": {"rowsperstrip": 32},
    "tiles": {"tile": (128, 64), "compression": "lzw", "predictor": True},
    "planar": {"planarconfig": "separate", "tile": (64, 64), "compression": "zlib"},
    "planar-raw": {"planarconfig": "separate"},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_layout(tmp_path, way):
    path = tmp_path / "a.tif"
    data = PICTURE.transpose(2, 0, 1) if "planar" in way else PICTURE
    tifffile.imwrite(path, data, photometric="rgb", metadata=None, **MPP, **WAYS[way])
    backend = TifffileBackend(path, 1 << 20)
    assert backend.level_sizes == [(430, 390)]
    for x, y, w, h in ((0, 0, 430, 390), (100, 70, 200, 150), (429, 389, 1, 1)):
        assert (np.asarray(backend.read(0, x, y, w, h)) == PICTURE[y : y + h, x : x + w]).all()
    slide = open_slide(path)
    assert slide.mpp_source == "tiff resolution" and slide.mpp_x == 0.5
    assert (slide.read(0, 0, 0, 430, 390) == PICTURE).all()


def test_transparency(tmp_path):
    path = tmp_path / "a.tif"
    alpha = np.full((390, 430, 1), 255, np.uint8)
    alpha[:100] = 0
    alpha[100:200] = 128
    pixels = np.concatenate([PICTURE, alpha], axis=2)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], **MPP)
    got = open_slide(path).read(0, 0, 0, 430, 390).astype(int)
    opacity = alpha / 255
    assert np.abs(got - (PICTURE * opacity + 255 * (1 - opacity))).max() <= 1
    assert (got[:100] == 255).all()


def test_premultiplied_transparency(tmp_path):
    path = tmp_path / "a.tif"
    alpha = np.full((390, 430, 1), 255, np.uint8)
    alpha[:200] = 128
    pixels = np.concatenate([(PICTURE * (alpha / 255)).astype(np.uint8), alpha], axis=2)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["assocalpha"], **MPP)
    got = open_slide(path).read(0, 0, 0, 430, 390).astype(int)
    opacity = alpha / 255
    assert np.abs(got - (PICTURE * opacity + 255 * (1 - opacity))).max() <= 3


def test_grey(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE[..., 0], photometric="minisblack", **MPP)
    got = open_slide(path).read(0, 0, 0, 430, 390)
    assert (got == PICTURE[..., :1]).all()


def test_ome_pyramid(tmp_path):
    path = tmp_path / "a.ome.tif"
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
    with tifffile.TiffWriter(path) as tiff:
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": 250.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.25,
            "PhysicalSizeYUnit": "\u00b5m",
        }
        tiff.write(PICTURE, subifds=1, metadata=metadata, **options)
        tiff.write(PICTURE[::2, ::2], subfiletype=1, **options)
    backend = TifffileBackend(path, 1 << 20)
    assert backend.level_sizes == [(430, 390), (215, 195)]
    assert (np.asarray(backend.read(1, 10, 20, 99, 88)) == PICTURE[::2, ::2][20:108, 10:109]).all()
    source, x, y = backend.scales[0]
    assert (source, x, y) == ("ome", pytest.approx(0.25), 0.25)


def test_stack_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([PICTURE] * 3), photometric="rgb", **MPP)
    with pytest.raises(SlideError, match="stack of 3"):
        TifffileBackend(path, 1 << 20)


def test_damage_costs_one_read(tmp_path):
    path = tmp_path / "a.tif"
    options = WAYS["strips"] | {"rowsperstrip": 64}
    tifffile.imwrite(path, PICTURE, photometric="rgb", metadata=None, **MPP, **options)
    with tifffile.TiffFile(path) as tiff:
        offset, count = (tiff.pages[0].dataoffsets[2], tiff.pages[0].databytecounts[2])
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    slide = open_slide(path)
    with pytest.raises(SlideReadError):
        slide.read(0, 0, 128, 64, 64)
    assert (slide.read(0, 0, 64, 64, 64) == PICTURE[64:128, :64]).all()


def test_cache_is_bounded():
    cache = SegmentCache(1000)
    for index in range(10):
        cache.put((0, index), np.zeros(300, np.uint8))
    assert cache.get((0, 0)) is None and cache.get((0, 9)) is not None
    assert len(cache._held) == 3


def test_real_ome_tiff(shared):
    slide = open_slide(shared / "fixtures/OS-1-detail.ome.tif")
    assert slide.backend == "tifffile" and slide.mpp_source == "ome"
    assert slide.mpp_x == pytest.approx(0.2270972430394695)
    assert slide.size == (500, 500)
    assert slide.read(0, 0, 0, 500, 500).std() > 10
