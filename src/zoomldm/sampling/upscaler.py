"""Regions of an upscaled image, each averaging down to the input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zoomldm.archive import Archive, BaseLayer
from zoomldm.generation.octaves import PARENT_NOISE
from zoomldm.generation.options import RenderOptions
from zoomldm.generation.windows import Key
from zoomldm.geometry.levels import grid_shape
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering.latents import Latents
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.sampling.output import Read
from zoomldm.sampling.temporary_archive import write_temporary_archive

_HALO = 2  # px of the image around a region that are read with it


class _Given(Latents):
    """Latents of an image: the coarsest are the image, unchanged.

    The pipeline's context network predicts contexts of the others from the level above. Without
    such a network they are generated without contexts, as for one in ten samples in training.
    """

    def _contexts(self, level: int, keys: Sequence[Key], hint: Tensor | None = None) -> Tensor:
        network, device = self.pipeline.context_network, self.pipeline.device
        if network is None or hint is None:
            return torch.zeros(self.batch, *self.pipeline.summarizer.context_shape, device=device)
        levels = torch.full((self.batch,), level, device=device)
        return network(hint, levels, torch.full((self.batch,), PARENT_NOISE, device=device))


def write_image(
    path: Path, pixels: NDArray[np.uint8], level: int, pipeline: ZoomLDMPipeline
) -> None:
    """Write an archive whose base layer is an image (h, w, 3) and whose embeddings are zeros."""
    rows, cols = grid_shape(pixels.shape[1] << level, pixels.shape[0] << level)
    silence = np.zeros((rows, cols, pipeline.embedding_dim), np.float16)
    write_temporary_archive(path, "image", pipeline, silence, (level, pixels))


class ImagePyramid:
    """An image as the base layer of a pyramid without embeddings.

    Args:
        archive: its base layer is the image.
        pipeline: has an octave denoiser.
        options: rendering options.
        finest: the level to read.

    Raises:
        PipelineError: the pipeline has no octave denoiser.
    """

    def __init__(
        self, archive: Archive, pipeline: ZoomLDMPipeline, options: RenderOptions, finest: int
    ) -> None:
        self.finest = finest
        self.pyramid = pyramid = Pyramid(archive, pipeline, options)
        pyramid.latents = _Given(archive, pipeline, pyramid.options, pyramid.cache, pyramid._lock)

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region of the finest level, (height, width, 3)."""
        return self.pyramid.read(self.finest, x, y, width, height)


class Upscaler:
    """Regions of an upscaled image, each a function of its position alone.

    Args:
        image: the input.
        factor: enlargement of the side.
        draw: gives regions before their means are corrected.

    Attributes:
        size: width and height (px) of the output.
        most_off: largest difference so far, in 1/255, between the averaged output and the input.
    """

    def __init__(self, image: BaseLayer, factor: int, draw: Read) -> None:
        self._image, self._factor, self._draw, self.most_off = image, factor, draw, 0.0
        self.size = image.size[0] * factor, image.size[1] * factor

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region inside the output, (height, width, 3)."""
        factor, (full_w, full_h) = self._factor, self._image.size
        x0, y0 = max(x // factor - _HALO, 0), max(y // factor - _HALO, 0)
        x1 = min(-(-(x + width) // factor) + _HALO, full_w)
        y1 = min(-(-(y + height) // factor) + _HALO, full_h)
        wanted = self._image.read(x0, y0, x1 - x0, y1 - y0)
        generated = self._draw(x0 * factor, y0 * factor, (x1 - x0) * factor, (y1 - y0) * factor)
        out = with_means(generated, wanted)
        off = np.abs(_means(out, factor) - wanted)[_inner(x0, x1, full_w, y0, y1, full_h)]
        self.most_off = max(self.most_off, float(off.max(initial=0)))
        left, top = x - x0 * factor, y - y0 * factor
        return np.ascontiguousarray(out[top : top + height, left : left + width])


def _inner(x0: int, x1: int, width: int, y0: int, y1: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a region without its halo."""
    return (
        slice(0 if y0 == 0 else _HALO, None if y1 == height else -_HALO),
        slice(0 if x0 == 0 else _HALO, None if x1 == width else -_HALO),
    )


def _means(pixels: NDArray, side: int) -> NDArray[np.float64]:
    h, w = pixels.shape[:2]
    return pixels.reshape(h // side, side, w // side, side, 3).mean((1, 3), dtype=np.float64)


def with_means(pixels: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Change pixels as little as possible to average down to an image, within half of 1/255.

    Most of the correction is added smoothly. The rest is added block by block, to each pixel in
    proportion to its distance from white (or from black), so that none is clipped.

    Args:
        pixels: (f h, f w, 3).
        wanted: (h, w, 3).
    """
    factor = pixels.shape[0] // wanted.shape[0]
    x = pixels.astype(np.float64)
    missing = torch.from_numpy(wanted - _means(x, factor)).permute(2, 0, 1)[None]
    smooth = F.interpolate(missing, scale_factor=factor, mode="bilinear", align_corners=False)
    x = np.clip(x + smooth[0].permute(1, 2, 0).numpy(), 0, 255)
    rest = wanted - _means(x, factor)
    room = np.where(rest > 0, 255 - _means(x, factor), _means(x, factor))
    fraction = np.abs(rest) / np.maximum(room, 1e-9)

    def enlarged(values: NDArray) -> NDArray:
        return values.repeat(factor, 0).repeat(factor, 1)

    x = np.where(enlarged(rest > 0), x + enlarged(fraction) * (255 - x), x - enlarged(fraction) * x)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
