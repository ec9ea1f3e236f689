"""A pipeline's digest is that of what it holds now."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from training.archives import make_archive

from zoomldm.archive import open_archive
from zoomldm.diffusion.samplers import make_sampler
from zoomldm.encoders import PipelineEncoder
from zoomldm.errors import ArchiveError
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline
from zoomldm.pipeline.compatibility import check_encoder, check_latents

NETWORKS = ("unet", "vae", "summarizer", "patch_encoder", "embedding_diffusion")


@pytest.fixture
def pipeline() -> ZoomLDMPipeline:
    return build_pipeline("tiny")


@pytest.mark.parametrize("name", NETWORKS)
def test_it_follows_a_swapped_network(pipeline: ZoomLDMPipeline, name: str) -> None:
    whole, own = pipeline.digest(), pipeline.digest(name)
    setattr(pipeline, name, getattr(build_pipeline("tiny", seed=5), name))
    assert pipeline.digest(name) != own and pipeline.digest() != whole
    setattr(pipeline, name, getattr(build_pipeline("tiny"), name))
    assert pipeline.digest(name) == own and pipeline.digest() == whole


@pytest.mark.parametrize("name", NETWORKS)
def test_it_follows_weights_that_change(pipeline: ZoomLDMPipeline, name: str) -> None:
    own, weights = pipeline.digest(name), next(getattr(pipeline, name).parameters())
    with torch.no_grad():
        weights.add_(1)
    changed = pipeline.digest(name)
    assert changed != own
    weights.data = weights.data.clone() + 1
    assert pipeline.digest(name) not in (own, changed)


def test_it_follows_a_swapped_scheduler(pipeline: ZoomLDMPipeline) -> None:
    found = {pipeline.digest("scheduler")}
    config = pipeline.scheduler.config
    for name in ("ddim", "plms", "dpm++", "unipc"):
        pipeline.scheduler = make_sampler(name, config)
        found.add(pipeline.digest("scheduler"))
    pipeline.scheduler = DDIMScheduler.from_config(config, timestep_spacing="leading")
    found.add(pipeline.digest("scheduler"))
    assert len(found) == 6


def test_an_archive_bears_the_digest_of_the_encoder_that_made_it(
    pipeline: ZoomLDMPipeline,
) -> None:
    encoder = PipelineEncoder(pipeline, "tiny")
    before, tile = encoder.digest, np.zeros((1, 256, 256, 3), np.uint8)
    old = encoder.encode_tiles(tile)
    pipeline.patch_encoder = build_pipeline("tiny", seed=5).patch_encoder
    assert not np.array_equal(encoder.encode_tiles(tile), old)
    assert encoder.digest == pipeline.digest("patch_encoder") != before


def test_digests_are_what_they_were() -> None:
    """Of the same weights, by whatever version: archives and runs refer to them."""
    assert build_pipeline("tiny").digest("scheduler").startswith("6918a349a6a0")


def test_rounded_networks_read_the_archives_of_what_they_were(
    pipeline: ZoomLDMPipeline, tmp_path: Path
) -> None:
    archive = open_archive(make_archive(tmp_path / "a.zldm", pipeline, 3, 3, levels=(0,)))
    exact = pipeline.digest("patch_encoder")
    pipeline.to(torch.bfloat16)
    assert pipeline.digest("patch_encoder") != exact
    check_encoder(archive, pipeline)
    check_latents(archive, pipeline)
    pipeline.patch_encoder = build_pipeline("tiny", seed=5).patch_encoder
    with pytest.raises(ArchiveError, match="was made by patch encoder"):
        check_encoder(archive, pipeline)
    pipeline.save_pretrained(str(tmp_path / "half"))
    build_pipeline("tiny").save_pretrained(str(tmp_path / "whole"))
    loaded = ZoomLDMPipeline.from_pretrained(str(tmp_path / "whole"), dtype=torch.bfloat16)
    with pytest.raises(ArchiveError, match=r"load it in float32, then \.to\(torch\.bfloat16\)"):
        check_encoder(archive, loaded)
