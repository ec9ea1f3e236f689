"""Trained models: the pipeline, presets, loading, and which archives a pipeline can read."""

from zoomldm.pipeline.loading import (
    KINDS,
    SHIPPED,
    build_pipeline,
    load_pipeline,
    pick_device,
    preset_kinds,
)
from zoomldm.pipeline.pipeline import PARTS, ZoomLDMOutput, ZoomLDMPipeline

__all__ = [
    "KINDS",
    "PARTS",
    "SHIPPED",
    "ZoomLDMOutput",
    "ZoomLDMPipeline",
    "build_pipeline",
    "load_pipeline",
    "pick_device",
    "preset_kinds",
]
