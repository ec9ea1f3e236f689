"""Least-squares fit, before training, of an octave's linear parts: outline, blends, spread."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.data.rasters import RasterPatches
from zoomldm.geometry.levels import COUNT
from zoomldm.networks.lowpass import LowPassAutoencoder, coarse_planes
from zoomldm.networks.octave_denoiser import KINDS, NONE, OctaveDenoiser
from zoomldm.networks.summarizers import CNNSummarizer, standardise
from zoomldm.pixels import to_signed

WINDOWS = (3072, 1536, 1024, 768, 512, 256, 96, 48)  # windows by level to fit the outline
PAIRS = 192  # items per level and kind of hint to fit a blend
RIDGE = 0.03


def latents_of(autoencoder: LowPassAutoencoder, pixels: Tensor) -> Tensor:
    """Latents (B, 6, 32, 32) of pixels (B, 64, 64, 3) uint8 two octaves coarser."""
    return autoencoder.from_planes(coarse_planes(to_signed(pixels)))


@torch.no_grad()
def fit_outline(
    summarizer: CNNSummarizer,
    autoencoder: LowPassAutoencoder,
    patches: RasterPatches,
    windows: tuple[int, ...] = WINDOWS,
) -> bool:
    """Fit a summarizer's outline to training windows.

    Args:
        summarizer: its outline is set, unless it has none or one that is already set.
        autoencoder: encodes the latents.
        patches: training windows.
        windows: number of windows by level.

    Returns:
        Whether the outline was set.
    """
    outline = summarizer.outline
    if outline is None or outline.fitted:
        return False
    for level in range(COUNT):
        rng, side = np.random.default_rng([11, level]), 1 << level
        second = cross = None
        for _ in range(0, windows[level], 16):
            batch = patches.draw(rng, level, 16, whole=True)
            latents = latents_of(autoencoder, torch.from_numpy(batch.pixels))
            grid = standardise(torch.from_numpy(batch.grids[:, :side, :side]))
            x = outline.gathered(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(0, 2)
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            y = F.pixel_unshuffle(latents, outline.cells(level)).permute(0, 2, 3, 1).flatten(0, 2)
            one, other = (x.T @ x).double(), (x.T @ y).double()
            second = one if second is None else second + one
            cross = other if cross is None else cross + other
        assert second is not None and cross is not None
        outline.fit(level, second, cross, RIDGE)
    return True


@torch.no_grad()
def fit_blend(
    denoiser: OctaveDenoiser, level: int, kind: int, hint: Tensor, own: Tensor, latents: Tensor
) -> None:
    """Set one blend of a denoiser that has one per level, and the spread that it leaves.

    Args:
        denoiser: changed in place.
        level: 0..7.
        kind: NONE (the spread alone), PARENT or BASE.
        hint: (B, C, h, w), as in training.
        own: (B, C, h, w), the head's mean from the context alone.
        latents: (B, C, h, w).
    """
    if kind:
        both = torch.cat([hint, own], 1)
        x = F.unfold(both, 5, padding=2).transpose(1, 2).flatten(0, 1)
        x = torch.cat([x, x.new_ones(len(x), 1)], 1).double()
        y = latents.flatten(2).transpose(1, 2).flatten(0, 1).double()
        second = x.T @ x
        eye = torch.eye(len(second)).to(second)
        root = torch.linalg.cholesky(second + 1e-3 * second.diagonal().mean() * eye)
        found = torch.cholesky_solve(x.T @ y, root).T.to(latents.dtype)
        layer = denoiser.blend[(KINDS - 1) * level + kind - 1]
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        layer.weight.copy_(found[:, :-1].unflatten(1, (both.shape[1], 5, 5)))
        layer.bias.copy_(found[:, -1])
        own = layer(both)
    variance = (latents - own).square().mean((0, 2, 3)).clamp(min=1e-3).log()
    denoiser.spread[level, kind] = variance
    if kind == NONE:  # without a context nothing is known
        denoiser.spread[level, kind, 0] = latents.square().mean((0, 2, 3)).clamp(min=1e-3).log()
