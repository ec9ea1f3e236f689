"""One batch of latents, made by the octave denoiser from what is known of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoomldm.diffusion.multistep import Multistep, spread_times
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.networks.lowpass import Planes, enlarged, pooled
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser

LAST = 999
NEAREST = 12  # last timestep: what is finer is not worth an evaluation
PARENT_NOISE = 0.05  # standard deviation that the denoiser is told generated parents carry
ALONE_NOISE = 0.08  # standard deviation that parents are given where no image is stored ...
DRAWN_NOISE = 0.25  # ... and where the contexts are drawn too


def codec_loss(codec: str, quality: float | None) -> float:
    """What the denoiser is told of a base layer's codec: 0 (lossless) to 1.

    The denoiser was trained on AVIF; other codecs' qualities are taken for as lossy as AVIF's
    of the same number.
    """
    return 0.0 if quality is None or codec == "png" else 1 - quality / 100


@dataclass(frozen=True)
class Known:
    """What is known of a batch of patches of one level.

    Attributes:
        level: 0..7.
        context: (B, 64, width).
        kind: NONE, PARENT or BASE, of all.
        hint: (B, C, h, w) laid out as latents, None where there is none.
        loss: of the hint: standard deviation of a parent's noise, or loss of a codec, 0 to 1.
    """

    level: int
    context: Tensor
    kind: int = NONE
    hint: Tensor | None = None
    loss: float = 0.0


def under_parent(
    level: int, context: Tensor, parent: Tensor, noise: Tensor, deviation: float
) -> Known:
    """What is known under a parent that was drawn from contexts alone.

    Context and parent disagree in places; a child that is held to the parent there shows the
    tokens as squares. So the parent is given with noise, and nothing is held to it.

    Args:
        level: 0..7.
        context: (B, 64, width).
        parent: (B, C, h, w), its quarter enlarged, laid out as latents.
        noise: (B, C, h, w) standard normal, that the latents are drawn from; another channel's
            is as good as fresh here, and the image stays a function of it alone.
        deviation: of the parent's noise: ALONE_NOISE under real contexts, else DRAWN_NOISE.
    """
    return Known(level, context, PARENT, parent + deviation * noise.roll(1, 1), deviation)


def octave_times(alphas: Tensor, steps: int, start: int = LAST) -> tuple[int, ...]:
    """Timesteps at which the denoiser is evaluated: even in the log of signal over noise.

    Args:
        alphas: (1000,) cumulative, of the denoiser.
        steps: how many.
        start: the first; the last is 12, or what comes nearest to it.

    Returns:
        Strictly falling.

    Raises:
        ConfigError: a number out of its range.
    """
    if not 1 <= steps <= LAST:
        raise ConfigError(f"steps is {steps}; expected 1 to {LAST}")
    if not steps <= start <= LAST:
        raise ConfigError(f"start is {start}; expected a timestep from {steps} (steps) to {LAST}")
    return spread_times(alphas, steps, start, NEAREST)


@torch.no_grad()
def make_latents(
    unet: OctaveDenoiser,
    known: Known,
    noise: Tensor,
    times: tuple[int, ...],
    guidance: float = 1.0,
) -> Tensor:
    """Latents of a batch, from the linear head's Gaussian.

    By DPM-Solver++ 2M (Lu et al. 2022, algorithm 2); under a base layer by DDIM (Song et al.
    2021). A few evaluations of the first keep a contrast that as many of the second lose, and go
    farther from the mean of what could be there: too far where an image is known.

    The first timestep's latents are drawn from what the head knows: normal with mean alpha mu and
    variance alpha^2 s + sigma^2, so that a late start loses nothing but what a Gaussian can tell.

    Args:
        unet: the denoiser.
        known: what is known.
        noise: (B, C, h, w) standard normal.
        times: see `octave_times`.
        guidance: scale of classifier-free guidance; 1 is none.

    Returns:
        (B, C, h, w), the last prediction of the clean latents.

    Raises:
        PipelineError: the denoiser gave numbers that are not finite.
    """
    n, device = len(noise), noise.device
    level = torch.full((n,), known.level, device=device)
    kind = torch.full((n,), known.kind, device=device)
    loss = torch.full((n,), known.loss, device=device, dtype=noise.dtype)
    head = unet.head(known.context, level, known.hint, kind)
    null = torch.zeros_like(known.context)
    bare = unet.head(null, level, known.hint, kind) if guidance != 1 else None
    bars = unet.alphas.to(noise)
    alpha, sigma = bars[times[0]].sqrt(), (1 - bars[times[0]]).sqrt()
    x = alpha * head[0] + (alpha**2 * head[1] + sigma**2).sqrt() * noise
    clean, solver = x, Multistep(order=1 if known.kind == BASE else 2)
    for now, after in zip(times, (*times[1:], None), strict=True):
        time = torch.full((n,), now, device=device)
        v = unet(x, time, known.context, level, known.hint, kind, loss, head)
        if bare is not None:
            plain = unet(x, time, null, level, known.hint, kind, loss, bare)
            v = plain + guidance * (v - plain)
        clean = bars[now].sqrt() * x - (1 - bars[now]).sqrt() * v
        if after is not None:
            x = solver.step(x, clean, bars[now], bars[after])
    if not torch.isfinite(clean).all():
        raise PipelineError(
            "the denoiser gave numbers that are not finite; its weights are damaged or the "
            "precision is too low (try float32)"
        )
    return clean


def smoothed(planes: Planes) -> Planes:
    """A child without any detail of its own: twice the side, smooth, averaged down its parent."""
    out = []
    for plane in planes:
        fine = torch.nn.functional.interpolate(
            plane, scale_factor=2, mode="bilinear", align_corners=False
        )
        out.append(fine)
    return corrected(Planes(*out), planes)


def corrected(child: Planes, parent: Planes) -> Planes:
    """A child moved by as little as makes it average down to its parent exactly."""
    missing = enlarged(Planes(*(p - q for p, q in zip(parent, pooled(child), strict=True))))
    return Planes(*(c + m for c, m in zip(child, missing, strict=True)))
