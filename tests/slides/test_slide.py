"""Reading a slide at a level equals cutting from a resampling of the whole slide."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from damage import damage_tile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic import paint_region, paint_slide

import zoomldm.slides.slide as slide_module
from zoomldm.errors import SlideError
from zoomldm.geometry import levels
from zoomldm.slides import Slide, SlideReadError, open_slide
from zoomldm.slides.stored_levels import stored_downsample


def stored_levels(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tiff:
        return [page.asarray() for page in tiff.pages]


def whole(path: Path, mpp: float, level: int) -> np.ndarray:
    """The level made in one go by Pillow, from the nearest finer stored level on white."""
    stored = stored_levels(path)
    height, width = stored[0].shape[:2]
    raster = levels.raster_size(width, height, mpp, mpp)
    size = levels.level_size(*raster, level)
    fine = [i for i in range(len(stored)) if mpp * 2**i <= levels.level_mpp(level) * 1.001]
    index = max(fine, default=0)
    step = [2**level * n / r / 2**index for n, r in zip((width, height), raster, strict=True)]
    box = [s * n for s, n in zip(step, size, strict=True)]
    canvas = Image.new("RGB", [math.ceil(b - 1e-6) for b in box], "white")
    canvas.paste(Image.fromarray(stored[index]))
    box = [min(b, c) for b, c in zip(box, canvas.size, strict=True)]
    image = canvas.resize(size, Image.Resampling.BICUBIC, box=(0, 0, *box), reducing_gap=2.0)
    return np.asarray(image)


def cut(picture: np.ndarray, x: int, y: int, w: int, h: int) -> np.ndarray:
    out = np.full((h, w, 3), 255, np.uint8)
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x0 < x1 and y0 < y1:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = picture[y0:y1, x0:x1]
    return out


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference; a single pixel in 10,000 may differ by one more (box in float32)."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    apart = np.abs(a.astype(np.int16) - b)
    largest = int(apart.max(initial=0))
    rare = (apart == largest).sum() <= 1 + 1e-4 * apart.size
    return largest - 1 if largest == 2 and rare else largest


CASES = {
    "upsampled": (700, 530, 0.527, 2),
    "exact": (640, 512, 0.5, 3),
    "40x": (1201, 903, 0.2526, 1),
    "finer": (999, 1001, 0.25, 3),
}


@pytest.fixture(scope="module", params=CASES)
def painted(request, tmp_path_factory) -> tuple[Slide, float]:
    width, height, mpp, count = CASES[request.param]
    path = tmp_path_factory.mktemp("slides") / f"{request.param}.tif"
    picture = paint_region(width, height, mpp, tissue=1.0)
    paint_slide(path, width, height, mpp, levels=count, jpeg=False, picture=picture)
    return open_slide(path), mpp


@pytest.mark.parametrize("level", range(8))
def test_whole_level_equals_resampling_the_whole_slide(painted, level):
    slide, mpp = painted
    width, height = slide.level_size(level)
    assert difference(slide.read(level, 0, 0, width, height), whole(slide.path, mpp, level)) <= 1


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_region_equals_cut_from_whole(painted, data):
    slide, _ = painted
    level = data.draw(st.integers(0, 7))
    width, height = slide.level_size(level)
    x = data.draw(st.integers(-20, width + 5))
    y = data.draw(st.integers(-20, height + 5))
    w, h = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    expected = cut(slide.read(level, 0, 0, width, height), x, y, w, h)
    assert difference(slide.read(level, x, y, w, h), expected) <= 1


def test_small_pieces_change_nothing(painted, monkeypatch):
    slide, _ = painted
    before = [slide.read(level, 0, 0, *slide.level_size(level)) for level in (0, 1, 3)]
    monkeypatch.setattr(slide_module, "_PIECE", 5000)
    monkeypatch.setattr(slide_module, "_PIECE_WIDTH", 90)
    monkeypatch.setattr(slide_module, "_STRIP", 64)
    for level, expected in zip((0, 1, 3), before, strict=True):
        assert difference(slide.read(level, 0, 0, *slide.level_size(level)), expected) <= 1


def test_geometry(tmp_path):
    slide = open_slide(paint_slide(tmp_path / "a.tif", 2000, 1000, mpp=0.2526))
    assert slide.native_size == (2000, 1000)
    assert slide.size == (round(2000 * 0.2526 / 0.5), round(1000 * 0.2526 / 0.5))
    assert slide.grid == (2, 4)
    assert slide.mpp_x == pytest.approx(0.2526, rel=1e-5)  # a TIFF holds it as a ratio
    assert slide.mpp_source == "tiff resolution"
    assert slide.backend == "openslide" and slide.vendor == "generic-tiff"
    assert slide.file_bytes == slide.path.stat().st_size
    assert len(slide.properties["quickhash"]) == 64


@given(
    coarse=st.tuples(st.integers(16, 1500), st.integers(16, 1500)),
    rest=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    power=st.integers(0, 7),
    up=st.booleans(),
)
def test_stored_downsample_sees_through_rounding(coarse, rest, power, up):
    native = tuple(int((c + r) * 2**power) for c, r in zip(coarse, rest, strict=True))
    shrunk = tuple(-(-n // 2**power) if up else n // 2**power for n in native)
    assert stored_downsample(native, shrunk) == (2**power, 2**power)


def test_outside_is_white(painted):
    slide, _ = painted
    width = slide.level_size(2)[0]
    assert (slide.read(2, width, 0, 50, 50) == 255).all()
    assert (slide.read(2, -50, -50, 50, 50) == 255).all()
    assert slide.read(2, 0, 0, 0, 0).shape == (0, 0, 3)


def test_result_is_writable(painted):
    assert painted[0].read(0, 0, 0, 8, 8).flags.writeable


@pytest.mark.parametrize("level", [-1, 8])
def test_level_that_does_not_exist(painted, level):
    with pytest.raises(ValueError, match="level"):
        painted[0].read(level, 0, 0, 1, 1)


def test_one_large_level_is_read_in_bounded_strips(tmp_path, monkeypatch):
    slide = open_slide(paint_slide(tmp_path / "a.tif", 8300, 8200, levels=1, tissue=0.3))
    backend = slide._opened()
    read, largest = backend.read, []

    def recorded(level, x, y, width, height):
        largest.append(width * height)
        return read(level, x, y, width, height)

    monkeypatch.setattr(backend, "read", recorded)
    monkeypatch.setattr(slide_module, "READ_PIXELS", 1 << 20)
    width, height = slide.level_size(7)
    view = slide.read(7, 0, 0, width, height)
    assert view.shape == (height, width, 3)
    assert max(largest) <= 1 << 20


def test_pickled_slide_reads_the_same(painted):
    slide, _ = painted
    again = pickle.loads(pickle.dumps(slide))
    assert again._backend is None and again.size == slide.size
    assert (again.read(0, 5, 5, 64, 64) == slide.read(0, 5, 5, 64, 64)).all()


def test_slide_in_another_process(painted, elsewhere):
    slide, _ = painted
    mean = slide.read(0, 0, 0, 100, 100).mean()
    elsewhere(
        f"import pickle; slide = pickle.loads({pickle.dumps(slide)!r})\n"
        f"assert slide.read(0, 0, 0, 100, 100).mean() == {float(mean)}"
    )


def test_closed_slide(tmp_path):
    with open_slide(paint_slide(tmp_path / "a.tif", 300, 300)) as slide:
        slide.read(0, 0, 0, 10, 10)
    with pytest.raises(SlideError, match="closed"):
        slide.read(0, 0, 0, 10, 10)
    slide.close()


def test_transparent_tiles_are_white(tmp_path):
    path = tmp_path / "sparse.tif"
    tile = paint_region(256, 256, tissue=1.0)

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            iter([tile, None, None, tile]),
            shape=(512, 512, 3),
            dtype=np.uint8,
            tile=(256, 256),
            photometric="rgb",
            compression="zlib",
            maxworkers=1,
            resolution=(20000, 20000),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    slide = open_slide(path)
    picture = slide.read(0, 0, 0, 512, 512)
    assert (picture[:256, 256:] == 255).all()
    assert (picture[256:, 256:] == tile).all()


def test_one_damaged_tile_costs_that_tile(tmp_path):
    path = paint_slide(tmp_path / "damaged.tif", 1024, 1024, tissue=1.0)
    sound = open_slide(path)
    expected = sound.read(0, 0, 0, 1024, 1024)
    sound.close()
    damage_tile(path, 5)
    slide = open_slide(path)
    failed = []
    for index in range(16):
        y, x = 256 * (index // 4), 256 * (index % 4)
        try:
            tile = slide.read(0, x, y, 256, 256)
        except SlideReadError as error:
            failed.append(index)
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert (tile == expected[y : y + 256, x : x + 256]).all()
    assert failed == [5]


class TestBadFiles:
    def refused(self, path: Path, **options) -> str:
        with pytest.raises(SlideError) as error:
            open_slide(path, **options)
        message = str(error.value)
        assert "\n" not in message and str(path) in message
        return message

    def test_missing(self, tmp_path):
        assert "no such file" in self.refused(tmp_path / "none.svs")

    def test_folder(self, tmp_path):
        assert "is a folder" in self.refused(tmp_path)

    def test_empty(self, tmp_path):
        (tmp_path / "a.svs").touch()
        assert "empty" in self.refused(tmp_path / "a.svs")

    def test_text(self, tmp_path):
        (tmp_path / "a.svs").write_text("hello, world")
        assert "not a slide" in self.refused(tmp_path / "a.svs")

    def test_tiff_without_picture(self, tmp_path):
        (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0")
        self.refused(tmp_path / "a.tif")

    @pytest.mark.parametrize("length", [3, 9, 200])
    def test_cut_tiff(self, tmp_path, length):
        path = paint_slide(tmp_path / "a.tif", 300, 300, levels=1)
        path.write_bytes(path.read_bytes()[:length])
        self.refused(path)

    def test_sixteen_bits(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint16), photometric="rgb")
        assert "expected 8-bit RGB" in self.refused(tmp_path / "a.tif", mpp=0.5)

    def test_no_mpp(self, tmp_path):
        path = paint_slide(tmp_path / "a.tif", 300, 300, resolution=False)
        assert "--mpp" in self.refused(path)
        assert open_slide(path, mpp=0.25).size == (150, 150)

    @pytest.mark.parametrize("mpp", [0, -1, 50, math.nan, math.inf])
    def test_implausible_option(self, tmp_path, mpp):
        path = paint_slide(tmp_path / "a.tif", 300, 300)
        assert "0.05 to 5" in self.refused(path, mpp=mpp)

    def test_slide_without_mpp(self, shared):
        path = shared / "fixtures/TCGA-CR-7395-jp2k-no-mpp.svs"
        assert "--mpp" in self.refused(path)
        slide = open_slide(path, mpp=0.25)
        assert slide.mpp_source == "option" and slide.icc == "sRGB IEC61966-2.1"
        assert slide.read(0, 500, 500, 256, 256).std() > 5

    def test_incomplete_dicom(self, shared):
        assert "OpenSlide" in self.refused(shared / "fixtures/incomplete-dicom-wsi.dcm")


def test_real_slide_at_every_stored_level(shared):
    """Levels of odd sizes, which OpenSlide alone would draw shifted and blurred."""
    path = shared / "slides/lung-squamous-cell-carcinoma__HE3.svs"
    slide = open_slide(path)
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if page.is_tiled]
        for level in (3, 4):
            stored = pages[slide._plans[level].stored].asarray()
            x, y = stored.shape[1] // 3 + 1, stored.shape[0] // 3 + 1
            got = slide._pixels(slide._plans[level].stored, x, y, x + 300, y + 300)
            assert difference(np.asarray(got), stored[y : y + 300, x : x + 300]) <= 1


def test_aperio_region(shared):
    slide = open_slide(shared / "fixtures/CMU-1-Small-Region.svs")
    assert (slide.mpp_x, slide.mpp_source) == (0.499, "openslide.mpp")
    assert slide.properties["objective_power"] == "20"
