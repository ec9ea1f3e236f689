"""The embedding diffusion's network: a diffusion transformer over context tokens."""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.transformer import ModulatedBlock, modulated_norm, zeroed

TIME = 256


def positions(count: int, width: int) -> Tensor:
    """Fixed positions (count, width) float32: [sin | cos] of position over 10000**(2 k / width)."""
    omega = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = torch.arange(count, dtype=torch.float64)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def time_features(time: Tensor) -> Tensor:
    """Features (B, 256) of timesteps (B,): [cos | sin] over 128 geometric frequencies."""
    half = TIME // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angle = time.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], 1)


class _Block(ModulatedBlock):
    """Transformer block whose norms are shifted, scaled and gated by a condition.

    The layer that computes the six modulations starts at zero: the block starts as identity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.modulated(x, self.modulation(F.silu(condition))[:, None].chunk(6, 2))


class EmbeddingDiT(ModelMixin, ConfigMixin):
    """Transformer that predicts clean context tokens, and their variance, from noisy ones.

    Args:
        tokens: number of tokens in a context.
        context_dim: length of a context token.
        width: channels of the blocks.
        depth: number of blocks.
        heads: attention heads.
        levels: number of levels.
        learned_variance: whether the variance is predicted too, doubling the output.
    """

    @register_to_config
    def __init__(
        self,
        tokens: int = 65,
        context_dim: int = 512,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        levels: int = 8,
        learned_variance: bool = True,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(context_dim, width)
        self.position = nn.Parameter(positions(tokens, width)[None], requires_grad=False)
        self.time = nn.Sequential(nn.Linear(TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.level = nn.Embedding(levels, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, context_dim * (2 if learned_variance else 1))
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.level.weight, std=0.02)

    def forward(self, contexts: Tensor, time: Tensor, level: Tensor) -> Tensor:
        """Predict the clean context.

        Args:
            contexts: (B, tokens, context_dim), noisy.
            time: (B,) timesteps, 0..999.
            level: (B,) level of each.

        Returns:
            (B, tokens, context_dim), or twice as long if the variance is learned: the clean
            context, then the position of the log variance between its bounds, -1 to 1.
        """
        x = self.project(contexts) + self.position
        condition = self.time(time_features(time).to(x.dtype)) + self.level(level)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(F.silu(condition))[:, None].chunk(2, 2)
        return self.out(modulated_norm(x, shift, scale))
