"""One layout of timesteps and one sampling loop for any scheduler of a pipeline."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from zoomldm.diffusion.samplers import ReleasedDDIMScheduler
from zoomldm.errors import ConfigError

STEPS, GUIDANCE = 20, 1.5  # defaults of every verb and call
SPACING = "trailing"  # name in diffusers of the layout that pipelines are built with
_KNOWN = (
    DDIMScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    DEISMultistepScheduler,
)


@dataclass(frozen=True)
class Schedule:
    """Steps of a scheduler from noise, or from an intermediate level, to clean latents.

    Attributes:
        scheduler: a diffusers scheduler with its timesteps set; knows the betas and what the
            denoiser predicts. It is copied for each run, since some store earlier steps.
        timesteps: decreasing, 0..999; the first is the noise level that sampling starts at.
    """

    scheduler: Any
    timesteps: tuple[int, ...]

    @property
    def first(self) -> int:
        """Timestep that sampling starts at."""
        return self.timesteps[0]

    @property
    def name(self) -> str:
        """Name of the sampler, for provenance: `ddim`, or the scheduler's class."""
        kind = type(self.scheduler)
        return "ddim" if kind is DDIMScheduler else kind.__name__

    def add_noise(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Add noise of the same shape to latents (n, C, h, w), as at timestep `first`."""
        time = torch.full((len(latents),), self.first, device=latents.device)
        return self.scheduler.add_noise(latents, noise, time)

    def denoised(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        latents: Tensor,
        each: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Tensor:
        """Run all steps.

        Args:
            model: (latents, time (n,)) -> output of the scheduler's prediction type.
            latents: (n, C, h, w) at the noise level of `first`.
            each: wraps the timesteps, for example in a progress bar.
        """
        scheduler = copy.deepcopy(self.scheduler)
        for t in each(self.timesteps):
            scaled = scheduler.scale_model_input(latents, t)
            out = model(scaled, torch.full((len(latents),), t, device=latents.device))
            latents = scheduler.step(out, t, latents, return_dict=False)[0]
        return latents


def make_schedule(
    scheduler: Any | Mapping[str, Any], steps: int, start: int | None = None
) -> Schedule:
    """Lay a scheduler's steps over the whole schedule and keep those below `start`.

    A scheduler lays them out as configured. Pipelines are built with DDIM and "trailing":
    counted back from pure noise, so that a whole schedule starts at pure noise, and one that
    starts in the middle starts at exactly that noise: 20 steps with start 500 are 499, 449, ...,
    49 (timesteps count from 0, so 499 is the 500th).

    Args:
        scheduler: a pipeline's scheduler, which is not changed; or a configuration, from which
            DDIM with the layout of pipelines is built.
        steps: steps of the whole schedule, from 1 to the number of training timesteps.
        start: number of training timesteps to keep; None for all.

    Raises:
        ConfigError: steps out of range, or so few that none is left; a scheduler that draws its
            own noise, which no seed could reproduce, or that can't start in the middle.
    """
    if isinstance(scheduler, Mapping):
        own: Any = DDIMScheduler.from_config(dict(scheduler), timestep_spacing=SPACING)
    else:
        own = copy.deepcopy(scheduler)
    _check_known(own)
    most = int(own.config["num_train_timesteps"])
    if not 1 <= steps <= most:
        raise ConfigError(f"steps is {steps}; expected 1 to {most}")
    own.set_timesteps(steps)
    laid = own.timesteps if start is None else _begin_below(own, start)
    timesteps = tuple(int(t) for t in laid)
    if not timesteps:
        raise ConfigError(
            f"steps is {steps}, of which none is up to the start, t = {start}; "
            f"expected at least {-(-most // (start or most))}"
        )
    return Schedule(own, timesteps)


def _check_known(scheduler: Any) -> None:
    kind = type(scheduler).__name__
    if not isinstance(scheduler, _KNOWN):
        raise ConfigError(
            f"scheduler {kind} can't be used here: it is not known to draw no noise of its own; "
            f"expected one of {', '.join(k.__name__ for k in _KNOWN)}"
        )
    algorithm = str(scheduler.config.get("algorithm_type", ""))
    if algorithm.startswith("sde"):
        raise ConfigError(
            f"scheduler {kind} with algorithm_type {algorithm!r} draws noise of its own, which no "
            "seed repeats; expected dpmsolver++"
        )


def _begin_below(scheduler: Any, start: int) -> Tensor:
    """The timesteps below `start`, where the scheduler is set to begin."""
    if isinstance(scheduler, ReleasedDDIMScheduler):
        return scheduler.begin_below(start)
    left = scheduler.timesteps < start
    index = len(left) - int(left.sum())
    if index and isinstance(scheduler, PNDMScheduler):
        raise ConfigError(
            "PNDMScheduler can't start in the middle, as patches made from their parents do; "
            "expected zoomldm.diffusion.samplers.PLMSScheduler"
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)
    return scheduler.timesteps[index:]
