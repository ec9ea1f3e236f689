"""A pipeline that draws contexts, every input of which counts."""

import pytest
import torch

from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline


@pytest.fixture(scope="session")
def pipeline() -> ZoomLDMPipeline:
    """The tiny pipeline with its zero-initialised layers filled."""
    pipeline = build_pipeline("tiny")
    generator = torch.Generator().manual_seed(1)
    networks = (pipeline.unet, pipeline.vae, pipeline.summarizer, pipeline.embedding_diffusion)
    for network in networks:
        for values in network.parameters():
            if not values.any():
                values.normal_(std=0.05, generator=generator)
    return pipeline
