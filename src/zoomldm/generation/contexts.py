"""Contexts sampled by an embedding diffusion, and the noise of sample i."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.archive.manifest import Solver
from zoomldm.diffusion.learned_range import STEPS, LearnedRange
from zoomldm.diffusion.multistep import Multistep, spread_times
from zoomldm.diffusion.noise import BLOCK, noise
from zoomldm.errors import ConfigError, PipelineError
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.outline import SPAN, TOKENS
from zoomldm.networks.precision import fitted, widened

FIRST, LAST = 967, 44  # timesteps of an embedding diffusion: log-SNR -6 and 5


def context_noise(seed: int, level: int, index: int, shape: tuple[int, int]) -> Tensor:
    """Standard normal noise (tokens, width) of a sample: a function of its arguments alone."""
    numbers = shape[0] * shape[1]
    channels = -(-numbers // BLOCK**2)
    # Noise of images is keyed by timesteps below STEPS, so this field differs from all of it.
    field = noise(seed, level, STEPS, index * BLOCK, 0, (channels, BLOCK, BLOCK))
    return torch.from_numpy(field.reshape(-1)[:numbers].reshape(shape))


def image_noise(
    seed: int, level: int, step: int, index: int, shape: tuple[int, int, int]
) -> Tensor:
    """Standard normal noise (C, h, w) added to a sample's latents at timestep `step`."""
    return torch.from_numpy(noise(seed, level, step, index * max(shape[1], BLOCK), 0, shape))


def check_conditions(
    network: torch.nn.Module | None,
    guidance: float = 1.0,
    reference: bool = False,
    parent: bool = False,
    label: str | None = None,
) -> None:
    """Refuse conditions that an embedding diffusion doesn't support.

    Raises:
        PipelineError: there is no embedding diffusion.
        ConfigError: a condition or a guidance that it was not trained for.
    """
    if network is None:
        raise PipelineError(
            "pipeline has no embedding diffusion; train one with "
            "`zoomldm train --stage embedding-diffusion`, or add the released one with "
            "`zoomldm convert CDM.pt -o PIPELINE`"
        )
    if isinstance(network, ContextDiT):
        if reference and network.reference is None:
            raise ConfigError("this embedding diffusion was trained without references")
        if label is not None and label not in network.labels:
            known = f"it knows {', '.join(network.labels)}" if network.labels else "it knows none"
            raise ConfigError(f"label {label!r}: the embedding diffusion has no such one; {known}")
        return
    if reference or parent or label is not None:
        what = "reference" if reference else "parent (zoom)" if parent else "label"
        raise ConfigError(f"a released embedding diffusion takes no {what}; train one's own")
    if guidance != 1:
        raise ConfigError(
            f"context guidance is {guidance}; a released embedding diffusion knows no null "
            "condition, so only 1 (none) works"
        )


@lru_cache(maxsize=8)
def _diffusion(steps: int) -> LearnedRange:
    return LearnedRange.cosine().respaced(steps)


@lru_cache(maxsize=8)
def context_times(steps: int) -> tuple[int, ...]:
    """Timesteps at which an embedding diffusion is evaluated: the last, then even in log-SNR.

    Before FIRST hardly anything can be predicted; after LAST hardly anything is left to predict.

    Raises:
        ConfigError: steps not in 1..1000.

    Examples:
        >>> context_times(8)
        (999, 967, 919, 805, 574, 295, 121, 44)
    """
    if not 1 <= steps <= STEPS:
        raise ConfigError(f"steps is {steps}; expected 1 to {STEPS}")
    if steps == 1:
        return (STEPS - 1,)
    first = max(FIRST, steps - 2)
    return STEPS - 1, *spread_times(_diffusion(STEPS).alphas, steps - 1, first, LAST)


def _solved(model: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: tuple[int, ...]) -> Tensor:
    """Clean contexts from noise; `model` predicts them, possibly followed by extra values."""
    alphas, solver, clean = _diffusion(STEPS).alphas.to(x), Multistep(), x
    for now, after in zip(times, (*times[1:], None), strict=True):
        time = torch.full((len(x),), now, device=x.device)
        clean = model(x, time)[..., : x.shape[-1]]
        if after is not None:
            x = solver.step(x, clean, alphas[now], alphas[after])
    return clean


@torch.no_grad()
def draw_contexts(
    network: torch.nn.Module,
    level: int,
    start: Tensor,
    steps: int,
    guidance: float = 1.0,
    reference: Tensor | None = None,
    parent: Tensor | None = None,
    label: str | None = None,
    outline: int = 0,
    solver: Solver = "dpm-solver++",
) -> Tensor:
    """Sample contexts of a level from noise.

    A released network is always solved by DDIM.

    Args:
        network: a ContextDiT, or an EmbeddingDiT for contexts of the released model.
        level: 0 (20x) to 7 (0.15625x).
        start: (n, tokens, width) standard normal.
        steps: evaluations, 1 to 1,000.
        guidance: w in u + w (c - u), where u is predicted without any condition, level included.
        reference: (n, D) embeddings of tiles that the tissue should resemble.
        parent: (n, tokens / 4, width), see `matching_quarter`.
        label: one of the network's labels.
        outline: channels of the latents whose outline the contexts hold; the outline is
            `softened` if the network samples without axes.
        solver: `dpm-solver++` (2M, at `context_times`), or `ddim` at even timesteps, which needs
            about ten times as many to get as close to the many-step result.

    Returns:
        (n, tokens, width) in the summarizer's units.
    """
    check_conditions(network, guidance, reference is not None, parent is not None, label)
    levels = torch.full((len(start),), level, device=start.device)

    def call(x: Tensor, time: Tensor, *conditions: Tensor | None) -> Tensor:
        # Steps are taken in float32, whatever the network's precision.
        return widened(network(fitted(x, network), time, *conditions), network)

    if not isinstance(network, ContextDiT):
        return _diffusion(steps).sample(lambda x, time: call(x, time, levels), start)
    parent = None if parent is None else fitted(parent, network)
    null = torch.full_like(levels, int(network.config["levels"]))
    labels = None if label is None else torch.full_like(levels, network.labels.index(label))

    def model(x: Tensor, time: Tensor) -> Tensor:
        if guidance == 0:
            return call(x, time, null)
        out = call(x, time, levels, reference, parent, labels)
        return out if guidance == 1 else torch.lerp(call(x, time, null), out, guidance)

    if solver == "ddim":
        contexts = _diffusion(steps).sample(model, start)
    else:
        contexts = _solved(model, start, context_times(steps))
    contexts = network.restored(contexts, levels)
    return contexts if network.axes else softened(contexts, outline)


def softened(contexts: Tensor, channels: int) -> Tensor:
    """Sampled contexts, with the latent outline at their start averaged over 5 x 5 cells.

    Outlines of neighbouring tokens are sampled separately and do not quite match, which leaves a
    square edge every four cells. The denoiser regenerates the detail that the averaging removes.
    Parents are softened too before they condition children; otherwise they pass on their edges.

    Args:
        contexts: (n, 64, width).
        channels: C of the latents; 0 for contexts without an outline.
    """
    if not channels:
        return contexts
    width = channels * SPAN**2
    tokens = contexts[:, :, :width].transpose(1, 2).unflatten(2, (TOKENS, TOKENS))
    latents = F.pixel_shuffle(tokens, SPAN)
    soft = F.avg_pool2d(latents, 5, 1, 2, count_include_pad=False)
    tokens = F.pixel_unshuffle(soft, SPAN).flatten(2).transpose(1, 2)
    return torch.cat([tokens, contexts[:, :, width:]], 2)


def as_seed(generator: torch.Generator | int | None) -> int:
    """The seed that a caller means: a given number, one from a generator, or a fresh one."""
    if isinstance(generator, int | np.integer):
        if not 0 <= generator < 2**63:
            raise ConfigError(f"seed is {generator}; expected a whole number from 0 to 2^63 - 1")
        return int(generator)
    device = None if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
