"""Classifier-free guidance as a function around the denoiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def guided(
    denoiser: Any, context: Tensor, scale: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """Denoiser under a context as a function of (latents, time).

    Args:
        denoiser: called as `denoiser(latents, time, context)`.
        context: (n, tokens, width); the null condition is zeros of this shape.
        scale: s in u + s (c - u) (Ho and Salimans 2022, in the usual convention, where 1 is no
            guidance); at 1 the null condition is not evaluated.
    """

    def plain(x: Tensor, time: Tensor) -> Tensor:
        return denoiser(x, time, context)

    def mixed(x: Tensor, time: Tensor) -> Tensor:
        both = torch.cat([torch.zeros_like(context), context])
        null, full = denoiser(torch.cat([x, x]), torch.cat([time, time]), both).chunk(2)
        return null + scale * (full - null)

    return plain if scale == 1 else mixed
