"""Eight bits keep an embedding's direction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagecodecs import zstd_encode

from zoomldm.archive.quantise import COSINE_MIN, cosines, dequantise, quantise, to_float16
from zoomldm.errors import ArchiveError


def _gaussian(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def test_gaussian_embeddings_keep_their_direction():
    values = _gaussian(2000, 384) * 7
    codes, scales = quantise(values)
    assert cosines(values, dequantise(codes, scales)).min() > 0.9993


def test_gaussian_embeddings_cost_under_5_6_bits():
    codes, _ = quantise(_gaussian(256, 384))
    assert len(zstd_encode(codes.tobytes(), level=3)) < codes.size * 5.6 / 8


@given(
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.floats(-30, 30),
    st.floats(-20, 20),
)
def test_any_tile_of_few_dimensions_keeps_its_direction(dim, seed, exponent, mean):
    values = ((_gaussian(20, dim, seed) + mean) * 10.0**exponent).astype(np.float32)
    codes, scales = quantise(values)
    assert np.abs(codes.astype(int)).max() <= 127
    assert (scales > 0).all()
    assert cosines(values, dequantise(codes, scales)).min() >= COSINE_MIN


def test_nothing_is_clipped():
    values = _gaussian(8, 384)
    values[:, 3] = 40
    codes, scales = quantise(values)
    np.testing.assert_allclose(dequantise(codes, scales)[:, 3], 40, rtol=0.01)


def test_zero_stays_zero():
    codes, scales = quantise(np.zeros((2, 5), np.float32))
    assert not codes.any()
    assert (scales == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_is_not_finite(bad):
    with pytest.raises(ArchiveError, match="NaN or infinity"):
        quantise(np.array([[1, bad]], np.float32))
    with pytest.raises(ArchiveError, match="float16 holds"):
        to_float16(np.array([[1, bad]], np.float32), "embeddings")


def test_float16_refuses_what_overflows():
    with pytest.raises(ArchiveError, match="latents reach 70000"):
        to_float16(np.array([7e4], np.float32), "latents")
