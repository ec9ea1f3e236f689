"""Joint sampling of a large image and its own view at a lower magnification.

As published with the released model: tiles at 20x and one patch of a coarser level, the guide, are
denoised side by side. In each step tiles are moved so that, averaged down, they match what the
guide is about to become. The move is found by finite differences (no back-propagation): the pixel
difference is pushed through the encoder, and then through the denoiser.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoomldm.diffusion.guidance import guided_beyond
from zoomldm.diffusion.large_image import added_variance, resized
from zoomldm.errors import ConfigError

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
_TINY = 1e-12  # so that a zero difference moves nothing


@dataclass(frozen=True)
class JointSettings:
    """Constants of joint sampling; the defaults are the released ones.

    Attributes:
        start: noise level that sampling starts at, 1 to 1000.
        stride: noise removed in a step.
        extra: guidance in the "+w" convention, see `guided_beyond`.
        inner: number of moves of the tiles towards the guide in a step.
        push: length of the finite differences.
        rate: length of a move.
        seams: noise level from which the image is denoised again in overlapping windows; 0: not.

    Raises:
        ConfigError: a value out of its range.
    """

    start: int = 1000
    stride: int = 50
    extra: float = 2.0
    inner: int = 10
    push: float = 0.005
    rate: float = 0.5
    seams: int = 300

    def __post_init__(self) -> None:
        for name, low, high in (
            *(("start", 1, 1000), ("stride", 1, 1000), ("inner", 0, 1000), ("seams", 0, 1000)),
            *(("extra", 0, 100), ("push", 1e-6, 1), ("rate", 0, 10)),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; expected {low:g} to {high:g}")

    @property
    def steps(self) -> tuple[int, ...]:
        """Noise level of each step, decreasing."""
        return tuple(range(self.start, 0, -self.stride))


@dataclass(frozen=True)
class JointNetworks:
    """The networks of joint sampling, as functions on tensors.

    Attributes:
        fine: predicts noise (B, C, s, s) in tiles from latents, times (B,) and contexts.
        guide: the same at the guide's level.
        encode: images (B, 3, S, S) in [-1, 1] to latents.
        decode: latents to images.
        alphas: (1000,) cumulative alphas.
        exact_time: give the networks the time of the noise, t - 1, and not t as released.
    """

    fine: Denoise
    guide: Denoise
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    alphas: Tensor
    exact_time: bool


def from_velocity(denoiser: Denoise, alphas: Tensor) -> Denoise:
    """Turn a denoiser of v into one of noise; its times must be those of the noise."""

    def noise(latents: Tensor, time: Tensor, context: Tensor) -> Tensor:
        alpha = alphas[time].view(-1, 1, 1, 1)
        return alpha.sqrt() * denoiser(latents, time, context) + (1 - alpha).sqrt() * latents

    return noise


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax((1, 2, 3), keepdim=True).clamp(min=_TINY)


def _predicted(
    networks: JointNetworks, model: Callable[[Tensor, Tensor], Tensor], x: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Predicted noise in latents, and the clean latents."""
    given = step - 1 if networks.exact_time else step
    error = model(x, torch.full((len(x),), given, device=x.device))
    alpha = networks.alphas[step - 1]
    return error, (x - (1 - alpha).sqrt() * error) / alpha.sqrt()


def _stepped(
    networks: JointNetworks, step: int, after: int, clean: Tensor, error: Tensor, fresh: Tensor
) -> Tensor:
    """Latents with the noise of `after` steps, part of it fresh, so that the variance is right."""
    before = networks.alphas[max(after - 1, 0)]
    added = added_variance(networks.alphas, step, before)
    return before.sqrt() * clean + (1 - before - added).sqrt() * error + added.sqrt() * fresh


@torch.no_grad()
def sample_joint(
    networks: JointNetworks,
    contexts: Tensor,
    guide_context: Tensor,
    noise: Callable[[int, int, int], Tensor],
    guide_noise: Callable[[int], Tensor],
    settings: JointSettings,
    batch: int = 16,
    on_batch: Callable[[int], None] | None = None,
    view: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample latents of n x n tiles and of the guide.

    Args:
        networks: see JointNetworks.
        contexts: (n n, tokens, width) of the tiles in raster order.
        guide_context: (1, tokens, width).
        noise: called with a step and a range of tiles (end excluded); returns the standard normal
            noise added to them then; `settings.start + 1` gives the noise that they start from.
        guide_noise: the same for the guide.
        settings: constants.
        batch: tiles at once.
        on_batch: called with the number of tiles of each batch that has taken a step.
        view: (1, 3, S, S) in [-1, 1], a known image that replaces the guide's, which is then not
            sampled (super-resolution).

    Returns:
        (n n, C, s, s) and (1, C, s, s); for a given view, the latter are its own latents.
    """
    count = len(contexts)
    n = round(count**0.5)
    first = settings.start + 1
    parts = [(i, min(i + batch, count)) for i in range(0, count, batch)]
    tiles = torch.cat([noise(first, *part) for part in parts])
    guide = guide_noise(first) if view is None else networks.encode(view)
    look = guided_beyond(networks.guide, guide_context, settings.extra)
    for step in settings.steps:
        after = step - settings.stride
        if view is None:
            error, clean = _predicted(networks, look, guide, step)
            image = networks.decode(clean).clamp(-1, 1)[0]
        else:
            error = clean = guide
            image = view[0]
        cells = image.unflatten(1, (n, -1)).unflatten(3, (n, -1)).permute(1, 3, 0, 2, 4)
        wanted = cells.flatten(0, 1)
        for low, high in parts:
            model = guided_beyond(networks.fine, contexts[low:high], settings.extra)
            x = tiles[low:high]
            own, seen = _predicted(networks, model, x, step)
            for _ in range(settings.inner):
                image = networks.decode(seen)
                missing = resized(wanted[low:high] - resized(image, 1 / n), n)
                missing = missing / _largest(missing)
                push = networks.encode(image + settings.push * missing) - networks.encode(image)
                push = push / _largest(push)
                _, moved = _predicted(networks, model, x + settings.push * push, step)
                change = (moved - seen) / settings.push
                x = x + settings.rate * change / _largest(change)
                own, seen = _predicted(networks, model, x, step)
            tiles[low:high] = _stepped(networks, step, after, seen, own, noise(step, low, high))
            if on_batch:
                on_batch(high - low)
        if view is None:
            guide = _stepped(networks, step, after, clean, error, guide_noise(step))
    return tiles, guide
