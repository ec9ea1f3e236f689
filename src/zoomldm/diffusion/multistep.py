"""Sampling with few evaluations of a denoiser: choice of timesteps, and second-order steps."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


def spread_times(alphas: Tensor, count: int, first: int, last: int) -> tuple[int, ...]:
    """Timesteps evenly spaced in the log of the signal-to-noise ratio.

    Evenly spaced timesteps spend most evaluations where hardly anything is visible.

    Args:
        alphas: (T,) cumulative, decreasing.
        count: number of timesteps, `first` + 1 at most.
        first: the first timestep.
        last: the last timestep; the nearest possible if `count` leaves no room for it.

    Returns:
        Strictly decreasing timesteps, 0 or more.

    Examples:
        >>> spread_times(torch.linspace(0.99, 0.01, 1000), 4, 999, 12)
        (999, 864, 263, 12)
    """
    ratio = torch.logit(alphas.double().cpu())
    wanted = torch.linspace(float(ratio[first]), float(ratio[min(last, first)]), count)
    times: list[int] = []
    for place, value in enumerate(wanted):
        nearest = int((ratio - value).abs().argmin())
        times.append(max(min(nearest, (times or [first + 1])[-1] - 1), count - place - 1))
    return tuple(times)


@dataclass
class Multistep:
    """Steps of DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), for clean predictions.

    The first step, and every one of order 1, is DDIM's (Song et al. 2021).

    Attributes:
        order: 1 or 2.
    """

    order: int = 2
    _before: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def step(self, x: Tensor, clean: Tensor, now: Tensor, after: Tensor) -> Tensor:
        """Step from one timestep to the next.

        Args:
            x: noisy, at `now`.
            clean: clean prediction from `x`.
            now: cumulative alpha, a scalar.
            after: cumulative alpha of the next timestep.
        """
        alpha, sigma = now.sqrt(), (1 - now).sqrt()
        alpha2, sigma2 = after.sqrt(), (1 - after).sqrt()
        place, aim = (alpha / sigma).log(), clean
        if self.order == 2 and self._before is not None:  # extrapolate the prediction
            earlier, was = self._before
            step, gap = (alpha2 / sigma2).log() - place, place - was
            # In bfloat16 neighbouring timesteps may have the same alpha.
            aim = clean + (clean - earlier) * torch.where(gap > 0, step / gap / 2, 0)
        self._before = clean, place
        return alpha2 * aim + sigma2 * (x - alpha * aim) / sigma
