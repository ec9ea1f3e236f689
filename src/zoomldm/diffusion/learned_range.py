"""Process of the embedding diffusion: cosine schedule, clean prediction, learned variance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoomldm.errors import ConfigError

STEPS = 1000


def cosine_betas(steps: int = STEPS) -> Tensor:
    """Betas (steps,) float64 of Nichol and Dhariwal 2021, equation 17, at most 0.999."""

    def remaining(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor(
        [min(1 - remaining((i + 1) / steps) / remaining(i / steps), 0.999) for i in range(steps)],
        dtype=torch.float64,
    )


@dataclass(frozen=True)
class LearnedRange:
    """Gaussian diffusion whose network predicts the clean signal and a variance within its range.

    Attributes:
        betas: (T,) float64.
        times: (T,) timesteps that are passed to the network; 0..T-1 unless respaced.
    """

    betas: Tensor
    times: Tensor

    @classmethod
    def cosine(cls, steps: int = STEPS) -> "LearnedRange":
        """The full cosine schedule."""
        return cls(cosine_betas(steps), torch.arange(steps))

    def respaced(self, count: int) -> "LearnedRange":
        """Keep `count` evenly spread times, both ends included; betas are recomputed to match.

        Raises:
            ConfigError: count not in 1..T.
        """
        total = len(self.betas)
        if not 1 <= count <= total:
            raise ConfigError(f"steps is {count}; expected 1 to {total}")
        gap = (total - 1) / (count - 1) if count > 1 else 0.0
        indices = torch.tensor([round(i * gap) for i in range(count)])
        left = self.alphas[indices]
        before = torch.cat([left.new_ones(1), left[:-1]])
        return LearnedRange(1 - left / before, self.times[indices])

    @cached_property
    def alphas(self) -> Tensor:
        """Cumulative product of 1 - beta, (T,) float64."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def before(self) -> Tensor:
        """`alphas` one step earlier; 1 at the first."""
        return torch.cat([self.alphas.new_ones(1), self.alphas[:-1]])

    @cached_property
    def _posterior(self) -> Tensor:
        return self.betas * (1 - self.before) / (1 - self.alphas)

    def _at(self, values: Tensor, index: Tensor, like: Tensor) -> Tensor:
        picked = values.to(like.device)[index].to(like.dtype)
        return picked.reshape(-1, *(1,) * (like.ndim - 1))

    def add_noise(self, clean: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Add noise to a clean signal (B, ...) as at steps `index` (B,)."""
        alpha = self._at(self.alphas, index, clean)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def sample(self, model: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        """Run DDIM without added noise from `noise` (B, ..., C); nothing is clipped.

        Args:
            model: (x, time (B,)) -> (B, ..., C or 2 C), the clean signal first.
            noise: standard normal.
        """
        x = noise
        for i in reversed(range(len(self.betas))):
            index = torch.full((len(x),), i, device=x.device)
            clean = model(x, self.times.to(x.device)[index])[..., : x.shape[-1]]
            alpha = self._at(self.alphas, index, x)
            before = self._at(self.before, index, x)
            # As in the released code: this form, not a division by sqrt(1 - alpha).
            direction = (x / alpha.sqrt() - clean) / (1 / alpha - 1).sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * direction
        return x

    def losses(
        self, model: Callable[[Tensor, Tensor], Tensor], clean: Tensor, index: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared error and variational bound (Nichol and Dhariwal 2021, section 3.1).

        The bound trains the variance only: the clean prediction is detached in it.

        Args:
            model: (x, time (B,)) -> (B, ..., 2 C): clean signal, then variance in -1..1.
            clean: (B, ..., C).
            index: (B,) steps.
            noise: standard normal of clean's shape.

        Returns:
            Mean squared error (B,) and bound in bits per number (B,); the loss is their sum.
        """
        x = self.add_noise(clean, index, noise)
        predicted, range_ = model(x, self.times.to(x.device)[index]).chunk(2, -1)
        within = tuple(range(1, clean.ndim))
        squared = (clean - predicted).square().mean(within)

        betas, posterior = self._at(self.betas, index, x), self._at(self._posterior, index, x)
        first = float(self._posterior[1 if len(self.betas) > 1 else 0])
        low = torch.where(posterior > 0, posterior, first).log()
        fraction = (range_ + 1) / 2
        log_variance = fraction * betas.log() + (1 - fraction) * low
        alpha, before = self._at(self.alphas, index, x), self._at(self.before, index, x)
        on_clean = betas * before.sqrt() / (1 - alpha)
        on_x = (1 - before) * (1 - betas).sqrt() / (1 - alpha)
        mean = on_clean * predicted.detach() + on_x * x
        truth = on_clean * clean + on_x * x
        divergence = 0.5 * (
            -1
            + log_variance
            - low
            + (low - log_variance).exp()
            + (truth - mean).square() * (-log_variance).exp()
        )
        likelihood = -_binned_log_likelihood(clean, mean, 0.5 * log_variance)
        first_step = (index == 0).reshape(-1, *(1,) * (clean.ndim - 1))
        bound = torch.where(first_step, likelihood, divergence)
        return squared, bound.mean(within) / math.log(2)


def _binned_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log likelihood of x in bins of 2/255 under a Gaussian; the outermost bins are open.

    As in Ho et al. 2020, equation 13, with the tanh approximation of the normal distribution.
    """

    def below(v: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    inverse = (-log_scale).exp()
    upper = below(inverse * (x - mean + 1 / 255))
    lower = below(inverse * (x - mean - 1 / 255))
    inside = (upper - lower).clamp(min=1e-12).log()
    left = upper.clamp(min=1e-12).log()
    right = (1 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, left, torch.where(x > 0.999, right, inside))
