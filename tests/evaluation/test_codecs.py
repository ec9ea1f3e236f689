"""Codecs, the search for a quality, and readers of one stored level."""

import numpy as np
import pytest
from PIL import Image
from synthetic import paint_slide, texture

from zoomldm.errors import ConfigError
from zoomldm.evaluation.codecs import (
    CODECS,
    CodedSlide,
    Setting,
    best_quality,
    find_codec,
    parse_setting,
)
from zoomldm.evaluation.fidelity import psnr
from zoomldm.evaluation.readers import WithoutBase, enlarged_image
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue

PICTURE = texture()[:256, :384]


@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_the_picture_and_spend_more_on_more_quality(name: str) -> None:
    codec = find_codec(name)
    low, high = codec.qualities
    sizes, errors = [], []
    for quality in (low, (low + high) // 2, high):
        data = codec.encode(PICTURE, quality)
        back = codec.decode(data)
        assert back.shape == PICTURE.shape and back.dtype == np.uint8
        sizes.append(len(data))
        errors.append(float(psnr(PICTURE[None], back[None])[0]))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors)
    assert errors[0] > 14
    assert errors[2] > 28


@pytest.mark.parametrize(
    ("most", "expected"), [(101, 10), (100, 9), (4, 1), (0.5, 0), (1e9, 20), (41, 6)]
)
def test_best_quality(most: float, expected: int) -> None:
    assert best_quality(lambda q: q * q + 1, most, 0, 20) == expected


def test_settings_from_text() -> None:
    assert parse_setting("avif:5x:235") == Setting("avif", 2, 235)
    assert str(parse_setting("none:10x")) == "10x as it is"
    for wrong in ("avif:5x", "avif:5x:many", "png:5x:9", "avif:5x:-1", "5x"):
        with pytest.raises(ConfigError):
            parse_setting(wrong)


def test_enlarging_does_not_depend_on_the_region() -> None:
    small = np.asarray(Image.fromarray(PICTURE).reduce(4))
    reader = enlarged_image(small, 2, (384, 256))
    whole = reader.read(0, 0, 0, 384, 256)
    for x, y, w, h in ((0, 0, 64, 64), (37, 51, 100, 90), (300, 200, 60, 50)):
        part = reader.read(0, x, y, w, h).astype(int)
        assert np.abs(part - whole[y : y + h, x : x + w]).max() <= 1, (x, y)
    inside = slice(16, -16)
    plain = np.asarray(Image.fromarray(small).resize((384, 256), Image.Resampling.BICUBIC))
    apart = np.abs(whole[inside, inside].astype(int) - plain[inside, inside])
    assert apart.max() <= 1


def test_other_levels_of_a_stored_one() -> None:
    reader = enlarged_image(PICTURE, 1, (768, 512))
    assert (reader.read(1, 10, 20, 30, 40) == PICTURE[20:60, 10:40]).all()
    averaged = np.asarray(Image.fromarray(PICTURE).reduce(4))
    assert (reader.read(3, 5, 6, 20, 20) == averaged[6:26, 5:25]).all()
    outside = reader.read(1, 380, 250, 10, 10)
    assert (outside[:, 5:] == 255).all() and (outside[7:] == 255).all()
    assert (outside[:6, :4] == PICTURE[250:, 380:]).all()


def test_an_archive_without_its_base_layer() -> None:
    class Archive:
        rows = 7
        base = "layer"

        def overview(self) -> str:
            return "picture"

    archive = WithoutBase(Archive())
    assert archive.rows == 7
    assert archive.base is None
    assert archive.overview() is None


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = paint_slide(
        tmp_path_factory.mktemp("slides") / "a.tif", 3072, 2048, tissue=0.5, jpeg=False
    )
    with open_slide(path) as opened:
        yield opened, find_tissue(opened).mask


def test_a_coded_slide_keeps_to_its_bytes_and_costs_detail(slide) -> None:
    opened, mask = slide
    row, col = np.argwhere(mask)[len(np.argwhere(mask)) // 2]
    place = (0, int(col) * 256, int(row) * 256, 256, 256)
    real = opened.read(*place)[None]
    found = {}
    for count in (100, 400):
        coded = CodedSlide(opened, mask, Setting("avif", 2, count))
        assert coded.reached and 0.5 * count < coded.bytes_per_tile <= count
        found[count] = (coded.quality, float(psnr(real, coded.read(*place)[None])[0]))
    assert found[100] < found[400]
    whole = CodedSlide(opened, mask, Setting("none", 2, float("inf")))
    assert float(psnr(real, whole.read(*place)[None])[0]) > found[400][1]
    assert np.isnan(whole.bytes_per_tile)


def test_what_no_quality_reaches_is_said(slide) -> None:
    coded = CodedSlide(*slide, Setting("jpeg", 1, 5))
    assert not coded.reached
    assert coded.quality == CODECS["jpeg"].qualities[0]
    assert coded.bytes_per_tile > 5


def test_outside_tissue_a_coded_slide_is_white(slide) -> None:
    opened, mask = slide
    row, col = np.argwhere(~mask)[0]
    coded = CodedSlide(opened, mask, Setting("none", 2, float("inf")))
    assert (coded.read(2, int(col) * 64, int(row) * 64, 64, 64) == 255).all()
    shown = coded.read(2, 0, 0, *opened.level_size(2))
    real = opened.read(2, 0, 0, *opened.level_size(2))
    tissue = mask.repeat(64, 0).repeat(64, 1)[: real.shape[0], : real.shape[1]]
    assert (shown[tissue] == real[tissue]).all()
    assert (shown[~tissue] == 255).all()
