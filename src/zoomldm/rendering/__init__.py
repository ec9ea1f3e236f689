"""Archive and pipeline to pixels: any region at any magnification."""

from zoomldm.generation.options import RenderOptions
from zoomldm.rendering.cascade import Cascade
from zoomldm.rendering.exports import decompress

__all__ = ["Cascade", "RenderOptions", "decompress"]
