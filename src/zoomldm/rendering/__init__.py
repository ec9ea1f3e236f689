"""Archive and pipeline to pixels: any region at any magnification."""

from zoomldm.rendering.cascade import Cascade
from zoomldm.rendering.exports import decompress
from zoomldm.rendering.options import RenderOptions

__all__ = ["Cascade", "RenderOptions", "decompress"]
