"""The tiny pipeline with its zero-initialised layers filled, so that every input counts."""

from types import ModuleType

import pytest
import torch

from zoomldm.generation.octaves import Known
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


def watch_octaves(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Known]:
    """What a module's `make_latents` or `make_planes` is given from now on, call by call."""
    given: list[Known] = []
    name = "make_planes" if hasattr(module, "make_planes") else "make_latents"
    make = getattr(module, name)

    def watch(*arguments):
        given.extend(part for part in arguments if isinstance(part, Known))
        return make(*arguments)

    monkeypatch.setattr(module, name, watch)
    return given
