"""Patch encoders that others trained: which there are, and how one is loaded."""

from zoomldm.encoders.encoder import (
    EncoderOptions,
    NetworkEncoder,
    PatchEncoder,
    PipelineEncoder,
)
from zoomldm.encoders.loading import load_encoder
from zoomldm.encoders.table import ENCODERS, EncoderSpec, Preprocessing, known_as

__all__ = [
    "ENCODERS",
    "EncoderOptions",
    "EncoderSpec",
    "NetworkEncoder",
    "PatchEncoder",
    "PipelineEncoder",
    "Preprocessing",
    "known_as",
    "load_encoder",
]
