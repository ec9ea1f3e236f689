"""Convert published checkpoints (`weights.ckpt`, the embedding diffusion's `.pt`) to a pipeline."""

from zoomldm.networks.checkpoint import read_checkpoint
from zoomldm.released.conversion import ConvertOptions, ConvertReport, convert_released

__all__ = ["ConvertOptions", "ConvertReport", "convert_released", "read_checkpoint"]
