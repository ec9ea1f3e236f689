"""Samplers of the released system on its own timesteps, and others by name."""

from collections.abc import Mapping
from functools import wraps
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from zoomldm.errors import ConfigError

# Adams-Bashforth weights of the newest prediction and of up to three older ones.
_MULTISTEP = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def released_times(steps: int, train_steps: int = 1000) -> list[int]:
    """Increasing timesteps: 1 + multiples of floor(train_steps / steps).

    There may be more than `steps` of them (7 gives 8). If the last is `train_steps`, which is
    not a timestep and crashes the released code, it is replaced by `train_steps` - 1.

    Raises:
        ConfigError: steps not in 1..train_steps.
    """
    if not 1 <= steps <= train_steps:
        raise ConfigError(f"steps is {steps}; expected 1 to {train_steps}")
    times = np.arange(0, train_steps, train_steps // steps) + 1
    return sorted({min(int(t), train_steps - 1) for t in times})


def ddim_step(
    latents: Tensor, noise: Tensor, alpha: Tensor, before: Tensor, fresh: Tensor | None, eta: float
) -> tuple[Tensor, Tensor]:
    """One step of DDIM (Song et al. 2021, equations 12 and 16) without clipping.

    Args:
        latents: any shape.
        noise: predicted noise of that shape.
        alpha: cumulative alpha at the latents' time.
        before: cumulative alpha at the time to step to.
        fresh: standard normal noise for eta > 0.
        eta: 0 is deterministic.

    Returns:
        Latents at the earlier time, and the predicted clean latents.
    """
    clean = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    if not eta or fresh is None:
        return before.sqrt() * clean + (1 - before).sqrt() * noise, clean
    sigma = eta * ((1 - before) / (1 - alpha)).sqrt() * (1 - alpha / before).sqrt()
    direction = (1 - before - sigma**2).clamp(min=0).sqrt() * noise
    return before.sqrt() * clean + direction + sigma * fresh, clean


# diffusers loads a component of a pipeline only if its module knows the name SchedulerMixin.
class ReleasedDDIMScheduler(DDIMScheduler, SchedulerMixin):
    """DDIM on the released timesteps (`released_times`); otherwise diffusers' DDIMScheduler."""

    @wraps(DDIMScheduler.__init__)  # its signature defines what a configuration may contain
    def __init__(self, *settings: Any, **named: Any) -> None:
        super().__init__(*settings, **named)
        config = self.config
        if config["beta_schedule"] != "scaled_linear" or config["trained_betas"] is not None:
            return
        # diffusers multiplies a thousand alphas in float32, which loses 3e-7 of the product.
        ends = (config["beta_start"] ** 0.5, config["beta_end"] ** 0.5)
        roots = torch.linspace(*ends, config["num_train_timesteps"], dtype=torch.float64)
        self.betas = roots.square().float()
        self.alphas = 1 - self.betas
        self.alphas_cumprod = (1 - roots.square()).cumprod(0).float()
        if not config["set_alpha_to_one"]:
            self.final_alpha_cumprod = self.alphas_cumprod[0]

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Lay out the steps; call before sampling.

        Raises:
            ConfigError: steps not in 1..num_train_timesteps.
        """
        times = released_times(num_inference_steps, int(self.config["num_train_timesteps"]))
        self.num_inference_steps = len(times)
        self.timesteps = torch.tensor(self._order(times), device=device)
        before = [self.final_alpha_cumprod, *(self.alphas_cumprod[t] for t in times[:-1])]
        self._before = dict(zip(times, before, strict=True))

    def begin_below(self, start: int) -> Tensor:
        """Keep only the timesteps below `start` and return them: (n,), n may be 0."""
        times = [t for t in self._before if t < start]
        self.timesteps = torch.tensor(self._order(times) if times else [], dtype=torch.long)
        return self.timesteps

    @staticmethod
    def _order(times: list[int]) -> list[int]:
        return times[::-1]

    def _noise(self, output: Tensor, sample: Tensor, alpha: Tensor) -> Tensor:
        """Predicted noise from the denoiser's output of any prediction type."""
        kind = self.config["prediction_type"]
        if kind == "epsilon":
            return output
        if kind == "v_prediction":
            return alpha.sqrt() * output + (1 - alpha).sqrt() * sample
        return (sample - alpha.sqrt() * output) / (1 - alpha).sqrt()

    def _stepped(
        self,
        noise: Tensor,
        time: int,
        sample: Tensor,
        eta: float = 0.0,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod[time].to(sample.device)
        return ddim_step(sample, noise, alpha, self._before[time].to(sample.device), fresh, eta)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        """Step from `timestep` to the next; see `ddim_step`. Nothing is clipped."""
        time = int(timestep)
        noise = self._noise(model_output, sample, self.alphas_cumprod[time])
        if eta and variance_noise is None:
            place = generator.device if generator is not None else "cpu"
            variance_noise = torch.randn(sample.shape, generator=generator, device=place)
            variance_noise = variance_noise.to(sample)
        stepped, clean = self._stepped(noise, time, sample, eta, variance_noise)
        return DDIMSchedulerOutput(stepped, clean) if return_dict else (stepped, clean)


class PLMSScheduler(ReleasedDDIMScheduler):
    """Linear multistep sampling (Liu et al. 2022) as released: S steps cost S + 1 evaluations.

    The first step averages the noise at its two ends (improved Euler); later ones extrapolate
    from up to three older predictions. For this, `timesteps` contains the second time twice.
    """

    @staticmethod
    def _order(times: list[int]) -> list[int]:
        falling = times[::-1]
        return [falling[0], falling[min(1, len(falling) - 1)], *falling[1:]]

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Lay out the steps and forget older predictions; call before sampling."""
        super().set_timesteps(num_inference_steps, device)
        self._past: list[Tensor] = []
        self._start: tuple[int, Tensor] | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        """Take the next step; call once for each of `timesteps`, in their order.

        Raises:
            ConfigError: eta is not 0.
        """
        if eta:
            raise ConfigError(f"eta is {eta}; PLMS is deterministic: use DDIM or eta 0")
        time = int(timestep)
        noise = self._noise(model_output, sample, self.alphas_cumprod[time])
        if not self._past:
            self._past, self._start = [noise], (time, sample)
        elif self._start is not None:
            (time, sample), self._start = self._start, None
            noise = (self._past[0] + noise) / 2
        else:
            self._past = [noise, *self._past][:4]
            weights = _MULTISTEP[len(self._past) - 1]
            noise = torch.stack([w * e for w, e in zip(weights, self._past, strict=True)]).sum(0)
        stepped, clean = self._stepped(noise, time, sample)
        return DDIMSchedulerOutput(stepped, clean) if return_dict else (stepped, clean)


SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (ReleasedDDIMScheduler, {}),
    "plms": (PLMSScheduler, {}),
    "dpm++": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "timestep_spacing": "trailing"},
    ),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2, "timestep_spacing": "trailing"}),
}


def make_sampler(name: str, config: Mapping[str, Any]) -> Any:
    """Return the scheduler of a name, for `pipeline.scheduler`.

    Args:
        name: `ddim`, `plms`, `dpm++` (Lu et al. 2022) or `unipc` (Zhao et al. 2023).
        config: configuration of a diffusers scheduler with the same betas and prediction type.

    Raises:
        ConfigError: no such sampler.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler {name!r} does not exist; samplers are {', '.join(SAMPLERS)}")
    kind, settings = SAMPLERS[name]
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    kwargs = {k: config[k] for k in (*keys, "prediction_type") if k in config}
    if issubclass(kind, DDIMScheduler):
        kwargs |= {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return kind(**kwargs, **settings)
