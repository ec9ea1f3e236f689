"""One layout of timesteps and one loop over them, whichever scheduler a pipeline has."""

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

STEPS, GUIDANCE = 20, 1.5  # what every verb and call takes unless told otherwise
SPACING = "trailing"  # of diffusers' names for layouts, the one that pipelines are made with
_KNOWN = (
    DDIMScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    DEISMultistepScheduler,
)


@dataclass(frozen=True)
class Schedule:
    """Steps of a scheduler from noise, or from the middle, to clean latents.

    Attributes:
        scheduler: a scheduler of diffusers with its timesteps set; knows the betas and what the
            denoiser predicts. It is copied for each run, for some remember earlier steps.
        timesteps: falling, 0..999; the first is the level of noise that sampling starts at.
    """

    scheduler: Any
    timesteps: tuple[int, ...]

    @property
    def first(self) -> int:
        """Timestep that sampling starts at."""
        return self.timesteps[0]

    @property
    def name(self) -> str:
        """Of the sampler, for provenance: `ddim`, or the scheduler's class."""
        kind = type(self.scheduler)
        return "ddim" if kind is DDIMScheduler else kind.__name__

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents (n, C, h, w) with noise of the same shape added, as they are at `first`."""
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
            model: (latents, time (n,)) -> what the scheduler's prediction type names.
            latents: (n, C, h, w) as they are at `first`.
            each: wraps the timesteps, such as a progress bar.
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
    """Lay a scheduler's steps over the whole schedule and keep those up to `start`.

    A scheduler lays them as its configuration says. Pipelines are made with DDIM and "trailing":
    counted back from pure noise, so that the whole schedule starts at pure noise, and one from
    the middle of it at just that noise: 20 steps with start 500 are 499, 449, ..., 49 (timesteps
    count from 0, so 499 is the 500th).

    Args:
        scheduler: a pipeline's, which is left as it is; or a configuration of one, of which DDIM
            with the layout of pipelines is made.
        steps: steps of the whole schedule, 1 up to its training timesteps.
        start: of the training timesteps, how many are kept; None for all.

    Raises:
        ConfigError: steps out of range, or so few that none is left; a scheduler that draws noise
            of its own, which no seed could repeat, or that can't start in the middle.
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
    """The timesteps below `start`, from which the scheduler is told to begin."""
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
