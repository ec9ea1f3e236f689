"""Random views of tiles for self-supervised learning: cropped, rotated, flipped, recoloured."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def warp(tiles: Tensor, rng: np.random.Generator, smallest: float = 0.6) -> Tensor:
    """Crop a random square, rotate it by a multiple of 90 degrees, flip it, and scale it back.

    Args:
        tiles: (B, 3, S, S).
        rng: random generator.
        smallest: least side of the square, as a fraction of S.
    """
    size = len(tiles)
    scale = rng.uniform(smallest, 1, size)
    x, y = (rng.uniform(-1, 1, size) * (1 - scale) for _ in range(2))
    angle = rng.integers(0, 4, size) * (math.pi / 2)
    flip = rng.choice([-1.0, 1.0], size)
    theta = np.zeros((size, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = scale * np.cos(angle) * flip, -scale * np.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = scale * np.sin(angle) * flip, scale * np.cos(angle)
    theta[:, 0, 2], theta[:, 1, 2] = x, y
    grid = F.affine_grid(torch.from_numpy(theta), list(tiles.shape), align_corners=False)
    return F.grid_sample(tiles, grid, padding_mode="reflection", align_corners=False)


def recolour(tiles: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Change stain-like colour: gain and offset of each channel in optical density.

    Args:
        tiles: (B, 3, S, S) in [0, 1].
        rng: random generator.
        strength: 1 changes each channel's density by up to 30 % and the whole by up to 30 %.
    """
    size = len(tiles)
    gain = 1 + strength * (rng.uniform(-0.3, 0.3, (size, 3)) + rng.uniform(-0.3, 0.3, (size, 1)))
    offset = strength * rng.uniform(-0.05, 0.05, (size, 3))
    density = -torch.log(tiles.clamp(1 / 255, 1))
    gain_, offset_ = (
        torch.from_numpy(v.astype(np.float32)).view(size, 3, 1, 1) for v in (gain, offset)
    )
    return torch.exp(-(density * gain_ + offset_)).clamp(0, 1)
