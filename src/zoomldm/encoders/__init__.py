"""Patch encoders that others trained: which there are, and how one is loaded."""

from zoomldm.encoders.encoder import NetworkEncoder, PatchEncoder, PipelineEncoder
from zoomldm.encoders.loading import load_encoder
from zoomldm.encoders.table import ENCODERS, EncoderFacts, Preparation

__all__ = [
    "ENCODERS",
    "EncoderFacts",
    "NetworkEncoder",
    "PatchEncoder",
    "PipelineEncoder",
    "Preparation",
    "load_encoder",
]
