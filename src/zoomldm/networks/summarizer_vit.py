"""The released transformer summarizer: maps a grid of any level to a context of 65 tokens."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.errors import PipelineError
from zoomldm.networks.summarizers import SIDE, standardise

TOKENS = SIDE * SIDE


class _Block(nn.Module):
    """Pre-norm transformer block: (B, T, width) -> the same."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViTSummarizer(ModelMixin, ConfigMixin):
    """Transformer over 64 grid tokens, preceded by one token for the level.

    The released system uses it instead of the supplement's CNN. Grids larger than 8 x 8 are first
    averaged to 8 x 8; smaller ones lie in the middle of 64 positions, surrounded by learned
    padding.

    Args:
        dim: D, length of an embedding.
        width: channels of the blocks.
        hidden: channels inside a block's MLP.
        context_dim: length of a context token.
        levels: number of levels.
        depth: number of blocks.
        heads: attention heads.
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 1024,
        width: int = 512,
        hidden: int = 2048,
        context_dim: int = 512,
        levels: int = 8,
        depth: int = 12,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.padding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.level = nn.Embedding(levels, width)
        self.position = nn.Parameter(torch.randn(1, TOKENS + 1, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, context_dim)
        self.out_norm = nn.LayerNorm(context_dim)

    @property
    def context_shape(self) -> tuple[int, int]:
        """Number of tokens and their length."""
        return TOKENS + 1, int(self.config["context_dim"])

    @staticmethod
    def prepare(grid: Tensor) -> Tensor:
        """Average down to at most 8 cells a side, then standardise, in float32.

        The released code does this in float16, in which its epsilon of 1e-8 is 0.

        Args:
            grid: (B, rows, cols, D) raw embeddings.

        Returns:
            (B, min(rows, 8), min(cols, 8), D) float32.
        """
        x = grid.float()
        sides = (min(x.shape[1], SIDE), min(x.shape[2], SIDE))
        if sides != tuple(x.shape[1:3]):
            x = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), sides).permute(0, 2, 3, 1)
        return standardise(x)

    def tokens(self, grid: Tensor) -> Tensor:
        """Project prepared grids (B, rows, cols, D) of at most 64 cells: (B, 64, width).

        The n cells take the positions from 32 - n // 2 on, in raster order.

        Raises:
            PipelineError: more than 64 cells.
        """
        count = grid.shape[1] * grid.shape[2]
        if count > TOKENS:
            raise PipelineError(
                f"grid of {grid.shape[1]} x {grid.shape[2]} cells; the summarizer takes at most "
                f"{TOKENS} cells: average it to {SIDE} x {SIDE} first"
            )
        before = TOKENS // 2 - count // 2
        pad = self.padding.expand(len(grid), -1, -1)
        return torch.cat(
            [
                pad.expand(-1, before, -1),
                self.project(grid.flatten(1, 2)),
                pad.expand(-1, TOKENS - before - count, -1),
            ],
            1,
        )

    def summarise(self, grids: Tensor | Sequence[Tensor], level: Tensor) -> Tensor:
        """Context of prepared grids.

        Args:
            grids: (B, rows, cols, D), or B of (rows, cols, D) of any sizes; at most 64 cells.
            level: (B,) level of each.

        Returns:
            Context (B, 65, context_dim); token 0 is the level's.
        """
        if isinstance(grids, Tensor):
            x = self.tokens(grids)
        else:
            x = torch.cat([self.tokens(grid[None]) for grid in grids])
        x = torch.cat([self.level(level)[:, None], x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.out_norm(self.out(self.norm(x)))

    def forward(self, grid: Tensor, level: Tensor) -> Tensor:
        """Summarise one batch of grids of one size.

        Args:
            grid: (B, rows, cols, D) raw embeddings.
            level: (B,) level of each.

        Returns:
            Context (B, 65, context_dim).
        """
        return self.summarise(self.prepare(grid).to(self.out.weight.dtype), level)
