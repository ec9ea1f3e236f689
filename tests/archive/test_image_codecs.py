"""Images in the codecs of base layers."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from zoomldm.archive.image_codecs import CODECS, encode_image, quick_size


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "png"])
def test_sizes_are_known_before(codec: str) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (256, 256, 3))
    field = gaussian_filter(noise, (1, 1, 0))
    part = np.clip(150 + 40 * field / field.std(), 0, 255).astype(np.uint8)
    exact = len(encode_image(part, codec, 42))
    assert quick_size(part, codec, 42) == pytest.approx(exact, rel=0.2)
