"""Predicts a patch's context from an image, for use without embeddings."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.summarizers import SIDE


class _Block(nn.Module):
    """Residual block, modulated by a code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.code = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.code.weight)
        nn.init.zeros_(self.code.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.code(code)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


class ContextNetwork(ModelMixin, ConfigMixin):
    """Predicts the context of a patch from what the level above shows of its pixels.

    It reads the same hint as the denoiser: the parent's quarter laid out as latents. It works on
    contexts of zero mean and unit std per dimension; `mean` and `deviation`, buffers stored with
    the weights, convert back.

    Args:
        latent_channels: channels C of the latents.
        width: channels of the blocks, a multiple of 8.
        depth: blocks at each of three sizes.
        context_dim: length of a context token.
        levels: number of levels.
        sample_size: cells along a patch's side.
    """

    mean: Tensor
    deviation: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 6,
        width: int = 96,
        depth: int = 2,
        context_dim: int = 512,
        levels: int = 8,
        sample_size: int = 32,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(context_dim))
        self.register_buffer("deviation", torch.ones(context_dim))
        self.enter = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.level = nn.Embedding(levels, width)
        self.loss = nn.Linear(1, width)
        halvings = (sample_size // SIDE).bit_length() - 1
        self.blocks = nn.ModuleList(
            nn.ModuleList(_Block(width) for _ in range(depth)) for _ in range(halvings + 1)
        )
        self.position = nn.Parameter(torch.randn(1, width, SIDE, SIDE) * 0.02)
        self.norm = nn.GroupNorm(8, width)
        self.out = nn.Conv2d(width, context_dim, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def standardised(self, contexts: Tensor) -> Tensor:
        """Contexts (..., context_dim) in the network's units."""
        return (contexts.float() - self.mean) / self.deviation

    def predict(self, hint: Tensor, level: Tensor, loss: Tensor) -> Tensor:
        """Standardised contexts (B, 64, context_dim); see `forward`."""
        code = F.silu(self.level(level) + self.loss(loss[:, None].to(self.loss.weight)))
        x = self.enter(hint)
        for place, blocks in enumerate(self.blocks):
            if place:
                x = F.avg_pool2d(x, 2)
            if place == len(self.blocks) - 1:
                x = x + self.position
            for block in blocks:  # type: ignore[union-attr]
                x = block(x, code)
        return self.out(F.silu(self.norm(x))).flatten(2).transpose(1, 2)

    def forward(self, hint: Tensor, level: Tensor, loss: Tensor) -> Tensor:
        """Contexts in the summarizer's units.

        Args:
            hint: (B, C, h, w), the parent laid out as latents.
            level: (B,) level of the patches.
            loss: (B,) standard deviation of the noise that the parent carries.

        Returns:
            (B, 64, context_dim) float32.
        """
        return self.predict(hint, level, loss).float() * self.deviation + self.mean
