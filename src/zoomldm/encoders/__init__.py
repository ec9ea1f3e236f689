"""Third-party patch encoders: the list of known ones, and loading."""

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
