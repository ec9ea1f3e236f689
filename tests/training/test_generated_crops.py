"""Crops with made low images: of the right places, the same every time, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from zoomldm.archive.base import halve
from zoomldm.data.crops import PatchCrops
from zoomldm.data.slide_patches import SlidePatches
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.networks.lowpass import restoring
from zoomldm.pipeline import build_pipeline
from zoomldm.training.generated_crops import GeneratedCrops


@pytest.fixture
def patches(tmp_path: Path) -> SlidePatches:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
    np.save(tmp_path / "a.npy", coarse.repeat(16, 1).repeat(16, 2))
    (tmp_path / "a.json").write_text(json.dumps({"rows": [(k, 0, 0) for k in (0, 0, 0, 1)]}))
    return SlidePatches(tmp_path, ["a"])


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline("tiny-octaves")


def test_fraction_place_and_repetition(patches, pipeline):
    source = GeneratedCrops(patches, pipeline, PatchCrops(patches), 0.75)
    crops = source.draw(np.random.default_rng(1), 8, 144)
    assert crops.images.shape == (8, 144, 144, 3) and crops.low.shape == (8, 36, 36, 3)
    assert len(source.times) == 3
    assert crops.made is not None and crops.made.tolist() == [True] * 6 + [False] * 2
    exact = np.stack([halve(image, 2) for image in crops.images])
    off = np.abs(exact.astype(int) - crops.low).mean((1, 2, 3))
    assert (off[:6] > 0.2).all() and (off[6:] == 0).all()
    # An untrained denoiser's first guess is the hint: the low image lies where the crop does.
    for low, real in zip(crops.low[:6], exact[:6], strict=True):
        here = np.corrcoef(low.ravel(), real.ravel())[0, 1]
        moved = np.corrcoef(np.roll(low, 8, 1).ravel(), real.ravel())[0, 1]
        assert here > moved + 0.2
    again = source.draw(np.random.default_rng(1), 8, 144)
    assert (again.low == crops.low).all() and (again.images == crops.images).all()


def test_a_decoder_that_restores_learns_from_first_predictions(patches):
    pipeline = build_pipeline("tiny-octaves")
    pipeline.vae = restoring(pipeline.vae)
    assert GeneratedCrops(patches, pipeline, PatchCrops(patches), 0.5).times == (999,)


def test_without_a_denoiser_of_octaves(patches):
    with pytest.raises(PipelineError, match="makes no low images"):
        GeneratedCrops(patches, build_pipeline("tiny"), PatchCrops(patches), 0.5)


def test_without_patches_at_20x(tmp_path, pipeline):
    np.save(tmp_path / "a.npy", np.zeros((1, 256, 256, 3), np.uint8))
    (tmp_path / "a.json").write_text(json.dumps({"rows": [(1, 0, 0)]}))
    coarse = SlidePatches(tmp_path, ["a"])
    with pytest.raises(ConfigError, match="no patches at 20x"):
        GeneratedCrops(coarse, pipeline, PatchCrops(coarse), 0.5)
