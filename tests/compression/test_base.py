"""The base layer's quality, chosen by the bytes that it may take."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from synthetic import paint_slide

from zoomldm import open_archive
from zoomldm.archive.image_codecs import quality_like
from zoomldm.compression.base import QUALITIES
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import build_pipeline

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
