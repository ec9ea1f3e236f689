"""Steps at the borders of a codec's blocks go; nothing else does."""

import hashlib

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from zoomldm.archive.borders import even_blocks
from zoomldm.archive.image_codecs import decode_image, encode_image
from zoomldm.evaluation.fidelity import seams

SIDE = 320


def texture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(0, 1, (SIDE, SIDE, 3)), (2, 2, 0))
    return np.clip(150 + 35 * field / field.std(), 0, 255).astype(np.uint8)


def blocky(amount: float = 9) -> np.ndarray:
    """The texture, each block of 16 px darker or lighter as a whole."""
    blocks = np.random.default_rng(5).normal(0, amount, (SIDE // 16, SIDE // 16, 1))
    return np.clip(texture() + blocks.repeat(16, 0).repeat(16, 1), 0, 255).astype(np.uint8)


def error(image: np.ndarray) -> float:
    return float(np.square(image.astype(float) - texture()).mean())


class TestEvenBlocks:
    def test_steps_become_those_beside_them(self):
        image = blocky()
        assert seams(image, 16, (0, 0)).mean > 1.3
        even = even_blocks(image)
        assert seams(even, 16, (0, 0)).mean == pytest.approx(1, abs=0.04)
        assert seams(even, 16, (8, 8)).mean == pytest.approx(1, abs=0.04)
        assert error(even) < error(image)

    def test_only_px_beside_lines_change_and_the_input_does_not(self):
        image = blocky()
        before = image.copy()
        changed = (even_blocks(image) != image).any(2)
        np.testing.assert_array_equal(image, before)
        near = np.isin(np.arange(SIDE) % 8, (6, 7, 0, 1))
        assert changed.any() and not changed[~near][:, ~near].any()

    def test_an_image_without_such_steps_stays_to_the_bit(self):
        image = texture()
        for _ in range(8):  # until no line of either kind is above those beside it
            image = even_blocks(image)
        np.testing.assert_array_equal(even_blocks(image), image)
        flat = np.full((64, 64, 3), 236, np.uint8)
        np.testing.assert_array_equal(even_blocks(flat), flat)

    @pytest.mark.parametrize("shape", [(1, 1), (9, 9), (7, 300), (300, 7), (40, 25)])
    def test_any_size(self, shape):
        image = texture()[: shape[0], : shape[1]]
        even = even_blocks(image)
        assert even.shape == image.shape and even.dtype == np.uint8
        if max(shape) < 13:  # no line has five px on both sides
            np.testing.assert_array_equal(even, image)

    @pytest.mark.parametrize("codec", ["avif", "jpeg", "webp"])
    def test_what_codecs_leave(self, codec):
        data = encode_image(texture(), codec, 35)
        coded = decode_image(data, codec, (SIDE, SIDE, 3), "x")
        even = even_blocks(coded)
        before, after = (abs(seams(image, 16, (0, 0)).mean - 1) for image in (coded, even))
        assert after < max(0.05, 0.5 * before)
        assert error(even) < 1.01 * error(coded)

    def test_the_same_numbers_for_ever(self):
        """Archives are shown by this: whoever changes it raises `rendering.renderer.RULES`."""
        rng = np.random.default_rng(11)
        image = rng.integers(90, 200, (96, 80, 3), np.uint8)
        image += rng.integers(0, 40, (6, 5, 1), np.uint8).repeat(16, 0).repeat(16, 1)
        assert hashlib.sha256(even_blocks(image).tobytes()).hexdigest() == (
            "f22a77c17ab6861dcd3def56dcdac41764218dbc523c167a4979e9ba1a6b549a"
        )
