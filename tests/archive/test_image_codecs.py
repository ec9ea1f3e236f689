"""Images in the codecs of base layers."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from zoomldm.archive.image_codecs import (
    CODECS,
    Pixels,
    avif_quality,
    decode_image,
    encode_image,
    quality_like,
    quick_size,
)


@pytest.fixture(scope="module")
def blobs() -> Pixels:
    noise = np.random.default_rng(0).normal(0, 1, (256, 256, 3))
    field = gaussian_filter(noise, (1, 1, 0))
    return np.clip(150 + 40 * field / field.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "png"])
def test_sizes_are_known_before(blobs: Pixels, codec: str) -> None:
    exact = len(encode_image(blobs, codec, 42))
    assert quick_size(blobs, codec, 42) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize(("quality", "psnr"), [(24, 18.7), (42, 21.2), (60, 23.1)])
def test_a_quality_means_what_the_denoiser_learned(
    blobs: Pixels, quality: int, psnr: float
) -> None:
    # libavif 1.2 and 1.3, with another tuning, gave 19.4, 22.5 and 23.9 dB
    shown = decode_image(encode_image(blobs, "avif", quality), "avif", blobs.shape, "blobs")
    error = np.square(shown.astype(np.float64) - blobs).mean()
    assert 10 * np.log10(255**2 / error) == pytest.approx(psnr, abs=0.4)


@pytest.mark.parametrize("codec", ["jpegxl", "webp", "jpeg"])
def test_codecs_lose_as_much_at_qualities_that_are_said_to_be_like(
    blobs: Pixels, codec: str
) -> None:
    for avif in (24, 37, 42, 60):
        own = quality_like(codec, avif)
        errors = [
            np.square(
                decode_image(encode_image(blobs, c, q), c, blobs.shape, "blobs").astype(float)
                - blobs
            ).mean()
            for c, q in (("avif", avif), (codec, own))
        ]
        assert errors[0] == pytest.approx(errors[1], rel=0.4)  # measured on tissue, not on blobs
        assert avif_quality(codec, own) == pytest.approx(avif, abs=1.5)


def test_avifs_qualities_are_its_own() -> None:
    for quality in (1, 24, 37, 60, 100):
        assert avif_quality("avif", quality) == quality == quality_like("avif", quality)


def test_a_level_coarser_takes_a_better_quality() -> None:
    """Pixels twice as large: measured, AVIF of 60 at 2.5x has the error of 36 at 5x."""
    assert avif_quality("avif", 60, level=3) == pytest.approx(36, abs=2)
    assert avif_quality("avif", 70, level=4) == pytest.approx(30, abs=7)
    assert avif_quality("avif", 42, level=1) == pytest.approx(67, abs=3)
    for codec in ("avif", "jpeg", "webp"):
        for level in (1, 3):
            own = quality_like(codec, 43, level)
            assert avif_quality(codec, own, level) == pytest.approx(43, abs=2)


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "png"])
def test_better_qualities_are_like_better_ones(codec: str) -> None:
    like = [avif_quality(codec, quality) for quality in range(1, 101)]
    assert like == sorted(like) and like[-1] == 100
