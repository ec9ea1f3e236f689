"""The tiny pipeline with its zero-initialised layers filled, so that every input counts."""

import torch

from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline


def filled_pipeline(preset: str = "tiny") -> ZoomLDMPipeline:
    pipeline = build_pipeline(preset)
    generator = torch.Generator().manual_seed(1)
    networks = (pipeline.unet, pipeline.vae, pipeline.summarizer, pipeline.embedding_diffusion)
    for network in networks:
        for values in network.parameters():
            if not values.any():
                values.normal_(std=0.05, generator=generator)
    return pipeline
