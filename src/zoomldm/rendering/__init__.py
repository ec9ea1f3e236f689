"""From archive and pipeline to pixels: any region at any magnification."""

from zoomldm.generation.options import RenderOptions
from zoomldm.rendering.cascade import Cascade
from zoomldm.rendering.exports import DecompressOptions, decompress
from zoomldm.rendering.slide import RenderedSlide, RenderedSlideError, open_slide

__all__ = [
    "Cascade",
    "DecompressOptions",
    "RenderOptions",
    "RenderedSlide",
    "RenderedSlideError",
    "decompress",
    "open_slide",
]
