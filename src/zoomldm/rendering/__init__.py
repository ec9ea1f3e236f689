"""Archive and pipeline to pixels: any region at any magnification."""

from zoomldm.rendering.cascade import Cascade, RenderOptions
from zoomldm.rendering.exports import decompress

__all__ = ["Cascade", "RenderOptions", "decompress"]
