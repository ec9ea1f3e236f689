"""Conversion of pixels between uint8 (n, h, w, 3) and tensors (n, 3, h, w) in [-1, 1]."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_signed(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    """Convert pixels (B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1], channels last.

    A tensor stays on its device.

    Examples:
        >>> to_signed(np.full((1, 2, 3, 3), 255, np.uint8)).unique().tolist()
        [1.0]
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Convert images (B, 3, H, W) in [-1, 1] to (B, H, W, 3) uint8, clamped and rounded.

    Examples:
        >>> to_pixels(torch.zeros(1, 3, 1, 1)).tolist()
        [[[[128, 128, 128]]]]
    """
    x = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return np.ascontiguousarray(x.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
