"""Least squares before training: what embeddings tell linearly need not be learned."""

import numpy as np
import torch

from tests.training.stages.test_octave import raster
from zoomldm.data.rasters import Raster, RasterPatches
from zoomldm.networks.lowpass import LowPassAutoencoder
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.training.head_fit import fit_outline
from zoomldm.training.stages.octave import OctaveStage

WINDOWS = (64, 32, 32, 16, 16, 16, 16, 16)


def coloured(seed: int) -> Raster:
    """A slide whose embeddings hold the mean colour of each half of their tile."""
    source = raster(seed, 16, 16)
    small = source.pixels[3].reshape(16, 8, 16, 8, 3).astype(np.float32)
    means = np.stack([small[:, :, :, :4].mean((1, 3)), small[:, :, :, 4:].mean((1, 3))], 2)
    values = (means.reshape(16, 16, 6) - 160) / 40
    noise = np.random.default_rng(seed).standard_normal((16, 16, 26)) * 0.3
    embeddings = np.concatenate([values, -values, noise[:, :, :20]], 2).astype(np.float16)
    return Raster(source.pixels, embeddings, source.background, source.mask, source.withheld)


def stage_of(patches: RasterPatches) -> OctaveStage:
    torch.manual_seed(0)
    summarizer = CNNSummarizer(
        dim=32, width=16, body=16, context_dim=112, depth=1, unpack=4, outline_channels=6
    )
    denoiser = OctaveDenoiser(
        widths=(16, 16, 32), heads=2, context_dim=112, spatial_context=8, outline=True, blends=8
    )
    return OctaveStage(
        LowPassAutoencoder(widths=(8, 8, 8), depths=(1, 1, 1)), summarizer, denoiser, patches
    )


def test_a_fit_beats_no_fit_on_another_slide() -> None:
    stage, other = stage_of(RasterPatches([coloured(0), coloured(1)])), RasterPatches([coloured(2)])

    def error(level: int, kind: int) -> float:
        """v-loss under context on the other slide."""
        sampled = other.draw(np.random.default_rng(5), level, 6)
        batch = stage._items(sampled, np.full(6, kind), 6, np.random.default_rng(6), 0, 40)
        with torch.no_grad():
            return float(stage.errors(batch)[0].mean())

    cases = [(2, NONE), (3, NONE), (2, PARENT), (2, BASE)]
    before = [error(*case) for case in cases]
    stage.fit(WINDOWS, 16)
    for case, old in zip(cases, before, strict=True):
        assert error(*case) < (0.8 if case[1] == NONE else 1) * old, case


def test_what_is_set_stays() -> None:
    patches = RasterPatches([coloured(0)])
    stage = stage_of(patches)
    vae = stage.vae[0]
    assert fit_outline(stage.summarizer, vae, patches, WINDOWS)
    held = {k: v.clone() for k, v in stage.summarizer.state_dict().items()}
    assert not fit_outline(stage.summarizer, vae, patches, WINDOWS)
    stage.fit(WINDOWS, 16)
    assert all(bool((held[k] == v).all()) for k, v in stage.summarizer.state_dict().items())


def test_without_an_outline_nothing_is_fitted() -> None:
    patches = RasterPatches([coloured(0)])
    plain = CNNSummarizer(dim=32, width=16, body=16, context_dim=32, depth=1, unpack=4)
    assert not fit_outline(plain, LowPassAutoencoder(), patches, WINDOWS)
