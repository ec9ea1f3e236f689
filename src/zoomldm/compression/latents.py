"""Latents of patches at every level, stored in an archive for training a denoiser."""

from collections.abc import Iterator

import numpy as np
import torch

from zoomldm.archive import ArchiveWriter
from zoomldm.geometry.lattice import patch_offsets
from zoomldm.geometry.levels import COUNT, NAMES, TILE
from zoomldm.networks.precision import fast_bfloat16
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_signed
from zoomldm.slides import Slide, SlideReadError
from zoomldm.verbs import Progress

BATCH = 32


def add_latents(
    slide: Slide,
    mask: np.ndarray,
    pipeline: ZoomLDMPipeline,
    writer: ArchiveWriter,
    progress: Progress,
) -> None:
    """Encode the training patches of every level and add them to an archive.

    Patches with an unreadable part are left out; the report of `compress` counts them.
    Patches are encoded under bfloat16 autocast where that is faster; its error is far below what
    float16 storage and training noise hide.
    """
    device = pipeline.device
    for level in range(COUNT):
        offsets = patch_offsets(mask, level)
        step, done = TILE // 2**level, 0
        what = f"encoding patches at {NAMES[level]}"
        for chunk, pixels in _batches(slide, level, step, offsets):
            x = to_signed(pixels).to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device.type)):
                latents = pipeline.encode_images(x)
            writer.add_latents(level, chunk, latents.half().cpu().numpy())
            done += len(chunk)
            progress(what, done, len(offsets))


def _batches(
    slide: Slide, level: int, step: int, offsets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    chunk: list[np.ndarray] = []
    pixels: list[np.ndarray] = []
    for offset in offsets:
        try:
            row, col = (int(v) for v in offset)
            pixels.append(slide.read(level, col * step, row * step, TILE, TILE))
        except SlideReadError:
            continue
        chunk.append(offset)
        if len(chunk) == BATCH:
            yield np.stack(chunk), np.stack(pixels)
            chunk, pixels = [], []
    if chunk:
        yield np.stack(chunk), np.stack(pixels)
