"""One batch of images from latents or starting images, and a parent's quarter."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoomldm.diffusion.schedule import Schedule
from zoomldm.generation.octaves import (
    IMAGINED_NOISE,
    Known,
    make_latents,
    octave_times,
    under_parent,
)
from zoomldm.geometry.levels import TILE
from zoomldm.networks.lowpass import enlarged, pooled
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels


@torch.no_grad()
def make_pixels(
    pipeline: ZoomLDMPipeline,
    schedule: Schedule,
    guidance: float,
    context: Tensor,
    noise: Tensor,
    starts: Tensor | None = None,
    level: int | None = None,
) -> NDArray[np.uint8]:
    """Denoise one batch.

    Args:
        pipeline: the pipeline.
        schedule: steps; noise is added to `starts` as at its first timestep.
        guidance: see `ZoomLDMPipeline.denoise`.
        context: (B, tokens, width).
        noise: (B, C, h, w) standard normal.
        starts: (B, 3, 256, 256) uint8 images to start from, a parent's quarter upsampled; None
            for noise alone. A denoiser that takes a parent gets them as the parent.
        level: level of the patches; None for 20x.

    Returns:
        (B, 256, 256, 3) uint8 sRGB.
    """
    latents = noise
    if starts is not None:
        images = starts.to(pipeline.device).float().div_(127.5).sub_(1)
        if isinstance(pipeline.unet, OctaveDenoiser):
            times = octave_times(pipeline.unet.alphas, len(schedule.timesteps))
            return octave_pixels(pipeline, times, guidance, context, noise, images, level)
        latents = schedule.add_noise(pipeline.encode_images(images), noise)
    model = pipeline.denoise(context, guidance, level=level)
    return to_pixels(pipeline.decode_latents(schedule.denoised(model, latents), level))


@torch.no_grad()
def octave_pixels(
    pipeline: ZoomLDMPipeline,
    times: tuple[int, ...],
    guidance: float,
    context: Tensor,
    noise: Tensor,
    images: Tensor | None = None,
    level: int | None = None,
) -> NDArray[np.uint8]:
    """One batch of images by an octave denoiser, see `make_latents`.

    Args:
        pipeline: its denoiser is an `OctaveDenoiser`.
        times: see `octave_times`.
        guidance: scale of classifier-free guidance; 1 is none.
        context: (B, tokens, width).
        noise: (B, C, h, w) standard normal.
        images: (B, 3, 256, 256) in [-1, 1], the quarters of the parents upsampled; None for none.
        level: of the patches; None for 20x.

    Returns:
        (B, 256, 256, 3) uint8 sRGB.
    """
    known = Known(level or 0, context)
    if images is not None:
        hint = pipeline.vae.from_planes(enlarged(pooled(pipeline.vae.planes(images))))
        known = under_parent(level or 0, context, hint, noise, IMAGINED_NOISE)
    latents = make_latents(pipeline.unet, known, noise, times, guidance)
    return to_pixels(pipeline.decode_latents(latents, level))


def upsampled_quarter(parent: NDArray[np.uint8], row: int, col: int) -> NDArray[np.uint8]:
    """The quarter of a parent's pixels that child (row, col) covers, upsampled by 2 (bicubic)."""
    half = TILE // 2
    top, left = row % 2 * half, col % 2 * half
    # With `box` the filter also samples outside it, so siblings meet without a visible edge.
    image = Image.fromarray(parent).resize(
        (TILE, TILE), Image.Resampling.BICUBIC, box=(left, top, left + half, top + half)
    )
    return np.array(image)
