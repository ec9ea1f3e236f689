"""Classifier-free guidance as a function around the denoiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def guided(
    denoiser: Any,
    context: Tensor,
    scale: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the denoiser with a fixed context, as a function of (latents, time).

    Args:
        denoiser: called as `denoiser(latents, time, context)`.
        context: (n, tokens, width); the null condition is zeros of this shape.
        scale: s in u + s (c - u) (Ho and Salimans 2022, in the usual convention, where 1 is no
            guidance); at 1 the null condition is not evaluated.
        interval: first and last timestep that are guided (Kynkäänniemi et al. 2024); outside
            them the null condition is not used, and not evaluated in a batch without any inside.
            None for all.
    """

    def plain(x: Tensor, time: Tensor) -> Tensor:
        return denoiser(x, time, context)

    def mixed(x: Tensor, time: Tensor) -> Tensor:
        both = torch.cat([torch.zeros_like(context), context])
        null, full = denoiser(torch.cat([x, x]), torch.cat([time, time]), both).chunk(2)
        return null + scale * (full - null)

    def limited(x: Tensor, time: Tensor) -> Tensor:
        assert interval is not None
        inside = (time >= interval[0]) & (time <= interval[1])
        if not inside.any():
            return plain(x, time)
        if inside.all():
            return mixed(x, time)
        shape = (-1, *(1,) * (x.ndim - 1))
        return torch.where(inside.reshape(shape), mixed(x, time), plain(x, time))

    if scale == 1:
        return plain
    return mixed if interval is None else limited


def guided_beyond(
    denoiser: Any, context: Tensor, extra: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Guidance in the "+w" convention of the released large-image code: (1 + w) c - w u.

    An `extra` of w is a `scale` of 1 + w in `guided`: 0, not 1, is no guidance.
    """
    return guided(denoiser, context, 1 + extra)
