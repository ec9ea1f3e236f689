"""Conditions found by inversion: the grid of embeddings that makes an image likeliest."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoomldm.errors import ConfigError
from zoomldm.networks.summarizers import standardise


@dataclass(frozen=True)
class InversionSettings:
    """Constants of inversion; the defaults are the published ones.

    Attributes:
        steps: steps of the optimiser, 1 to 10,000.
        rate: learning rate of Adam.
        most: noise level of the first step, 1 to 1000.
        least: noise level of the last step.
        together: weight of the mean cosine between tokens, which keeps them to one tissue.

    Raises:
        ConfigError: a value out of its range.
    """

    steps: int = 200
    rate: float = 0.1
    most: int = 950
    least: int = 50
    together: float = 0.05

    def __post_init__(self) -> None:
        for name, low, high in (
            *(("steps", 1, 10_000), ("rate", 1e-6, 10), ("most", 1, 1000), ("least", 1, 1000)),
            ("together", 0, 10),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"inversion's {name} is {value}; expected {low:g} to {high:g}")
        if self.least > self.most:
            raise ConfigError(f"inversion's least is {self.least}, its most {self.most}")

    @property
    def times(self) -> tuple[int, ...]:
        """Noise level of each step, decreasing."""
        return tuple(int(t) for t in torch.linspace(self.most, self.least, self.steps).tolist())


def invert_grid(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    summarise: Callable[[Tensor], Tensor],
    latents: Tensor,
    start: Tensor,
    noise: Callable[[int], Tensor],
    alphas: Tensor,
    settings: InversionSettings,
    exact_time: bool = True,
    on_step: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Find the embeddings under which a denoiser removes noise from an image best.

    As published: Adam on a grid that starts as noise. In each step noise is added to the
    latents, and the squared error of the predicted noise is weighted by sqrt(a) (1 - a), where a is
    the cumulative alpha; the mean cosine of all pairs of tokens is rewarded.

    Args:
        denoise: predicts noise from latents (B, C, h, w), times (B,) and contexts.
        summarise: maps grids (1, n, n, D) to contexts, with a gradient.
        latents: (1, C, h, w) of the image.
        start: (n, n, D) standard normal.
        noise: returns standard normal noise (1, C, h, w) of each step, from 0 on.
        alphas: (1000,) cumulative alphas.
        settings: constants.
        exact_time: give the network the time of its noise, t - 1, and not t as released.
        on_step: called with the number of steps done and the last step's loss.

    Returns:
        (n, n, D), each token standardised.
    """
    grid = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([grid], settings.rate)
    for step, time in enumerate(settings.times):
        alpha = alphas[time - 1]
        epsilon = noise(step)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * epsilon
        given = torch.full((1,), time - 1 if exact_time else time, device=latents.device)
        with torch.enable_grad():
            tokens = standardise(grid)
            found = denoise(noisy, given, summarise(tokens[None]))
            error = (alpha.sqrt() * (1 - alpha) * (found - epsilon).square()).mean()
            # Tokens have zero mean and equal length: their mean's squared norm is the mean cosine.
            unit = torch.nn.functional.normalize(tokens.flatten(0, 1), dim=-1)
            loss = error - settings.together * unit.mean(0).square().sum()
            (grid.grad,) = torch.autograd.grad(loss, [grid])
        optimiser.step()
        if on_step:
            on_step(step + 1, float(loss.detach()))
    return standardise(grid).detach()
