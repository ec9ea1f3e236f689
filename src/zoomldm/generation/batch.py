"""One batch of pictures from latents or starting pictures, and a parent's quarter."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoomldm.diffusion.schedule import Schedule
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline


@torch.no_grad()
def make_pixels(
    pipeline: ZoomLDMPipeline,
    schedule: Schedule,
    guidance: float,
    context: Tensor,
    drawn: Tensor,
    starts: Tensor | None = None,
) -> NDArray[np.uint8]:
    """Denoise one batch.

    Args:
        pipeline: the pipeline.
        schedule: steps; its first timestep is what `starts` are noised to.
        guidance: see `ZoomLDMPipeline.denoise`.
        context: (B, tokens, width).
        drawn: (B, C, h, w) standard normal.
        starts: (B, 3, 256, 256) uint8 pictures to start from; None for noise alone.

    Returns:
        (B, 256, 256, 3) uint8 sRGB.
    """
    latents = drawn
    if starts is not None:
        pictures = starts.to(pipeline.device).float().div_(127.5).sub_(1)
        latents = schedule.noised(pipeline.encode_pictures(pictures), drawn)
    model = pipeline.denoise(context, guidance)
    pictures = pipeline.decode_latents(schedule.denoised(model, latents))
    pixels = pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def upsampled_quarter(parent: NDArray[np.uint8], row: int, col: int) -> NDArray[np.uint8]:
    """The quarter of a parent's pixels that child (row, col) covers, upsampled by 2 (bicubic)."""
    half = TILE // 2
    top, left = row % 2 * half, col % 2 * half
    # A box samples its surroundings too, so siblings meet without an edge of their own.
    picture = Image.fromarray(parent).resize(
        (TILE, TILE), Image.Resampling.BICUBIC, box=(left, top, left + half, top + half)
    )
    return np.array(picture)
