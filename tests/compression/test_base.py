"""The base layer's quality, chosen by the bytes that it may take."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from synthetic import paint_slide

from zoomldm import open_archive
from zoomldm.archive.image_codecs import quality_like
from zoomldm.archive.manifest import Base
from zoomldm.compression.base import QUALITIES, _chunk
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import build_pipeline
from zoomldm.slides import SlideReadError
from zoomldm.slides.tissue import Tissue

SIDE = 5120  # px at 0.5 mpp: two chunks a side at 5x


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), 5)
    grey = np.clip(150 + 60 * texture / texture.std(), 0, 255)
    pixels = np.stack([grey, grey * 0.6, grey * 0.9], -1).astype(np.uint8)
    return paint_slide(tmp_path_factory.mktemp("slides") / "a.tif", SIDE, SIDE, picture=pixels)


def run(slide, out, **options):
    options = CompressOptions(tissue="all", **options)
    return compress(slide, out, options, pipeline=build_pipeline("tiny"))


class TestQuality:
    def test_meets_the_ratio(self, slide, tmp_path):
        most = run(slide, tmp_path / "a.zldm", base_quality=55).ratio
        least = run(slide, tmp_path / "b.zldm", base_quality=28).ratio
        wanted = (most * least) ** 0.5
        report = run(slide, tmp_path / "c.zldm", ratio=wanted)
        assert report.ratio == pytest.approx(wanted, rel=0.08)
        assert 28 < report.base_quality < 55
        with open_archive(tmp_path / "c.zldm") as archive:
            assert archive.manifest.base.ratio == wanted

    @pytest.mark.parametrize("codec", ["avif", "webp", "jpeg"])
    def test_stays_within_its_range(self, slide, tmp_path, codec):
        """The range is of AVIF: WebP loses no more than AVIF of 24 at its lowest qualities."""
        least, most = (quality_like(codec, quality) for quality in QUALITIES)
        out = tmp_path / "a.zldm"
        assert run(slide, out, ratio=100_000, base_codec=codec).base_quality == least
        assert run(slide, out, ratio=1.1, base_codec=codec).base_quality == most

    def test_meets_the_ratio_with_another_codec(self, slide, tmp_path):
        """WebP of 24, the lowest quality for AVIF, would be too large by far."""
        wanted = 0.9 * run(slide, tmp_path / "a.zldm", base_codec="webp", base_quality=7).ratio
        report = run(slide, tmp_path / "b.zldm", base_codec="webp", ratio=wanted)
        assert report.ratio == pytest.approx(wanted, rel=0.08)
        assert report.base_quality < 24

    def test_done_before(self, slide, tmp_path):
        first = run(slide, tmp_path / "a.zldm")
        again = run(slide, tmp_path / "a.zldm")
        assert again.done_before and again.base_quality == first.base_quality
        asked = run(slide, tmp_path / "a.zldm", base_quality=first.base_quality)
        assert not asked.done_before
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.manifest.base.ratio is None


class GreyLevels:
    """A slide whose coarse levels have lost their colour; one tile is damaged."""

    size = 2500, 1400

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        if not level and y == 256 and x <= 512 < x + w:
            raise SlideReadError("damaged")
        return np.full((h, w, 3), 90 if level else (200, 0, 100), np.uint8)


class TestPixels:
    @pytest.mark.parametrize(
        ("level", "codec", "averaged"),
        [
            *((1, "png", True), (2, "png", True), (7, "png", True), (3, "avif", True)),
            *((4, "jpeg", True), (2, "avif", False), (1, "avif", False)),
        ],
    )
    def test_tissue_is_averaged_from_20x_where_its_colour_counts(self, level, codec, averaged):
        """Scanners' own coarse levels are JPEGs of JPEGs."""
        slide, mask = GreyLevels(), np.ones((6, 10), bool)
        mask[2, 3:7] = False
        width, height = (-(-n // (1 << level)) for n in slide.size)
        base = Base(level=level, codec=codec, quality=None, width=width, height=height, chunk=256)
        found = np.empty((height, width, 3), np.uint8)
        for y in range(0, height, 256):
            for x in range(0, width, 256):
                chunk = _chunk(slide, Tissue(mask, 0, 8), base, y // 256, x // 256)
                found[y : y + 256, x : x + 256] = chunk
        fine = mask & averaged
        fine[1, 2] = False
        side = 256 >> level
        fine = fine.repeat(side, 0).repeat(side, 1)[:height, :width]
        fine[slide.size[1] >> level :] = fine[:, slide.size[0] >> level :] = False  # partly outside
        expected = np.where(fine[..., None], (200, 0, 100), 90)
        np.testing.assert_array_equal(found, expected)


class TestBackground:
    def test_is_the_glass_of_the_slide(self, tmp_path):
        rng = np.random.default_rng(1)
        picture = np.empty((2048, 6144, 3), np.uint8)
        picture[:] = 229, 226, 233
        texture = gaussian_filter(rng.normal(0, 1, (900, 1100)).astype(np.float32), 4)
        picture[300:1200, 200:1300, 1] = np.clip(120 + 50 * texture / texture.std(), 0, 255)
        slide = paint_slide(tmp_path / "a.tif", 6144, 2048, picture=picture)
        compress(slide, tmp_path / "a.zldm", pipeline=build_pipeline("tiny"))
        with open_archive(tmp_path / "a.zldm") as archive:
            base = archive.base
            np.testing.assert_allclose(base.background, (229, 226, 233), atol=2)
            assert archive.manifest.version in ("1.4", "2.2")
            assert archive.base_file(0, 1) is None
            shown = base.read(0, 0, *base.size).astype(int)
        far = shown[400:500, 400:1500]  # across the border of what is stored
        assert np.abs(far - base.background).max() <= 4

    def test_is_white_where_all_is_tissue(self, slide, tmp_path):
        run(slide, tmp_path / "a.zldm")
        with open_archive(tmp_path / "a.zldm") as archive:
            assert archive.manifest.base.background is None
            assert archive.base.background == (255, 255, 255)
