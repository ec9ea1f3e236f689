"""The stage of the octaves: its loss falls, its hints are what generation gives."""

import numpy as np
import pytest
import torch

from zoomldm.data.rasters import Raster, RasterPatches, coarser
from zoomldm.geometry.levels import COUNT
from zoomldm.networks.lowpass import pooled
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT
from zoomldm.pipeline import build_pipeline
from zoomldm.training.stages.octave import OctaveStage


def raster(seed: int, rows: int = 8, cols: int = 8) -> Raster:
    rng = np.random.default_rng(seed)
    small = rng.integers(80, 240, (rows * 8, cols * 8, 3), np.uint8)
    mask = np.zeros((rows, cols), bool)
    mask[1:-1, 1:-1] = True
    withheld = np.zeros_like(mask)
    withheld[-2, -2] = True
    embeddings = rng.standard_normal((rows, cols, 32)).astype(np.float16)
    pixels = coarser(small.repeat(8, 0).repeat(8, 1))
    return Raster(pixels, embeddings, np.zeros(32, np.float16) + 0.5, mask, withheld)


@pytest.fixture
def stage() -> OctaveStage:
    pipeline = build_pipeline("tiny-octaves")
    patches, held_out = RasterPatches([raster(0), raster(1)]), RasterPatches([raster(2)])
    return OctaveStage(pipeline.vae, pipeline.summarizer, pipeline.unet, patches, held_out)


def at_20x(stage: OctaveStage) -> dict[str, float]:
    """Held-out losses of the level that is trained: all eight take as many times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoomldm.training.stages.octave.COUNT", 1)
        patch.setattr(stage, "patches", None)
        return stage.held_out()


def test_the_loss_falls_on_held_out_tissue(stage: OctaveStage) -> None:
    before = at_20x(stage)
    stage.levels = np.eye(COUNT)[0]
    optimiser = torch.optim.AdamW(stage.parameters(), 3e-3)
    for step in range(25):
        batch = stage.batch(np.random.default_rng(step), 8)
        loss = stage(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = at_20x(stage)
    for kind in ("null", "parent", "base"):
        name = f"held-out/20x/{kind}"
        assert after[name] < 0.9 * before[name], name


def test_both_networks_and_the_head_get_gradients(stage: OctaveStage) -> None:
    stage.levels = np.eye(COUNT)[1]
    torch.nn.init.normal_(stage.unet.unet.conv_out.weight, std=0.1)
    stage(stage.batch(np.random.default_rng(0), 16))["loss"].backward()
    for parameter in (
        stage.unet.read.weight,
        stage.unet.blend[PARENT - 1].weight,
        stage.unet.blend[BASE - 1].weight,
        stage.unet.spread,
        stage.unet.unet.conv_in.weight,
        stage.summarizer.unpackers[1].weight,
    ):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_a_parents_hint_is_the_latents_one_octave_coarser(stage: OctaveStage) -> None:
    windows = stage.patches.draw(np.random.default_rng(0), 3, 3)
    batch = stage._items(windows, np.full(3, PARENT), 3, np.random.default_rng(1), 0)
    batch["loss"].zero_()
    latents, hint, _ = stage.given(batch)
    vae = stage.vae[0]
    for found, wanted in zip(
        pooled(vae.to_planes(hint)), pooled(vae.to_planes(latents)), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (hint - latents).abs().max() > 0.1


def test_no_hint_tells_nothing_and_a_base_layer_nearly_all(stage: OctaveStage) -> None:
    windows = stage.patches.draw(np.random.default_rng(0), 0, 2)
    for kind, low, high in ((NONE, 0, 0), (BASE, 0.5, 1.1)):
        batch = stage._items(windows, np.full(2, kind), 2, np.random.default_rng(1), 0, 90)
        latents, hint, _ = stage.given(batch)
        projection = float((hint * latents).sum() / latents.square().sum())
        assert low <= projection <= high


def test_pictures_are_of_all_kinds(stage: OctaveStage) -> None:
    picture = stage.images(columns=2, steps=1)
    assert picture.shape == (18 * 64, 128, 3)
