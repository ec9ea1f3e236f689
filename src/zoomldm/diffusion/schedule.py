"""The deterministic sampler (DDIM) over a whole schedule or its end, as functions on tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from zoomldm.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Steps of DDIM (Song et al. 2021) without added noise.

    Attributes:
        scheduler: diffusers' scheduler; knows the betas and what the denoiser predicts.
        timesteps: falling, 0..999; the first is the level of noise that sampling starts at.
    """

    scheduler: DDIMScheduler
    timesteps: tuple[int, ...]

    @property
    def first(self) -> int:
        """Timestep that sampling starts at."""
        return self.timesteps[0]

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents (n, C, h, w) with noise of the same shape added, as they are at `first`."""
        time = torch.full((len(latents),), self.first, device=latents.device)
        return self.scheduler.add_noise(latents, noise, time)  # type: ignore[arg-type]

    def denoised(self, model: Callable[[Tensor, Tensor], Tensor], latents: Tensor) -> Tensor:
        """Run all steps.

        Args:
            model: (latents, time (n,)) -> what the scheduler's prediction type names.
            latents: (n, C, h, w) as they are at `first`.
        """
        for t in self.timesteps:
            out = model(latents, torch.full((len(latents),), t, device=latents.device))
            latents = self.scheduler.step(out, t, latents, return_dict=False)[0]  # type: ignore[arg-type]
        return latents


def make_schedule(config: Mapping[str, Any], steps: int, start: int | None = None) -> Schedule:
    """Lay `steps` evenly over the whole schedule and keep those up to `start`.

    The steps are counted back from pure noise ("trailing"), so that the whole schedule starts at
    pure noise, and one from the middle of it at just that noise: 20 steps with start 500 are
    499, 449, ..., 49 (timesteps count from 0, so 499 is the 500th).

    Args:
        config: configuration of a diffusers scheduler.
        steps: steps of the whole schedule, 1 up to its training timesteps.
        start: of the training timesteps, how many are kept; None for all.

    Raises:
        ConfigError: steps out of range, or so few that none is left.
    """
    scheduler = DDIMScheduler.from_config(dict(config), timestep_spacing="trailing")
    assert isinstance(scheduler, DDIMScheduler)
    most = int(scheduler.config["num_train_timesteps"])
    if not 1 <= steps <= most:
        raise ConfigError(f"steps is {steps}; expected 1 to {most}")
    scheduler.set_timesteps(steps)
    timesteps = tuple(int(t) for t in scheduler.timesteps)
    if start is not None:
        timesteps = tuple(t for t in timesteps if t < start)
    if not timesteps:
        raise ConfigError(
            f"steps is {steps}, of which none is up to the start, t = {start}; "
            f"expected at least {-(-most // (start or most))}"
        )
    return Schedule(scheduler, timesteps)
