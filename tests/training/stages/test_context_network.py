"""The stage of the context network: its loss falls on tissue that it has not seen."""

import numpy as np
import pytest
import torch

from training.stages.test_octave import raster
from zoomldm.data.rasters import RasterPatches
from zoomldm.errors import PipelineError
from zoomldm.pipeline import build_pipeline, preset_kinds
from zoomldm.training.registry import make_config, pick_stage
from zoomldm.training.stage import Start
from zoomldm.training.stages.context_network import ContextNetworkStage


@pytest.fixture
def stage() -> ContextNetworkStage:
    kind = pick_stage("context-network", preset_kinds("tiny-octaves"))
    config = make_config("tiny-octaves", "context-network", kind)
    pipeline = kind.start(Start("tiny-octaves", None, False, config))
    assert pipeline is not None and pipeline.context_network.config["width"] == 16
    patches, held_out = RasterPatches([raster(0), raster(1)]), RasterPatches([raster(2)])
    return ContextNetworkStage(pipeline, patches, held_out)


def test_it_learns_what_the_level_above_tells(stage: ContextNetworkStage) -> None:
    """Contexts of embeddings that say how light each tile is: the level above shows it."""
    for store in (stage.patches, stage.held_out_patches):
        assert store is not None
        for r in store.rasters:
            light = r.pixels[0].reshape(8, 64, 8, 64, 3).mean((1, 3, 4)) / 255
            r.embeddings[:] = np.sin(np.arange(32) * (1 + 6 * light[..., None]))
    stage.standardise()
    stage.levels = np.eye(7)[1]
    with torch.no_grad():
        before = stage.held_out()
    optimiser = torch.optim.AdamW(stage.parameters(), 1e-2)
    for step in range(40):
        loss = stage(stage.batch(np.random.default_rng(step), 8))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        after = stage.held_out()
    assert after["held-out/10x"] < 0.8 * before["held-out/10x"]


def test_contexts_are_of_one_size(stage: ContextNetworkStage) -> None:
    stage.standardise()
    windows = stage.patches.draw(np.random.default_rng(0), 2, 8)
    found = stage.network.standardised(stage._contexts(windows))
    assert 0.3 < float(found.square().mean()) < 3


def test_only_the_network_is_trained(stage: ContextNetworkStage) -> None:
    batch = stage.batch(np.random.default_rng(0), 8)
    stage(batch)["loss"].backward()
    assert stage.network.out.weight.grad is not None
    given = stage.given[0]
    assert all(p.grad is None for p in (*given.summarizer.parameters(), *given.vae.parameters()))
    assert list(stage.networks()) == ["context_network"]


def test_it_needs_a_denoiser_that_takes_a_parent() -> None:
    kind = pick_stage("context-network", preset_kinds("tiny-octaves"))
    config = make_config("tiny", "context-network", kind)
    with pytest.raises(PipelineError, match="give a pipeline of octaves"):
        kind.start(Start("tiny", build_pipeline("tiny"), False, config))
