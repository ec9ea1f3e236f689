"""Summarizers: map the grid of any level to a context of 8 x 8 tokens."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.outline import Outline, windows

SIDE = 8


def standardise(embeddings: Tensor) -> Tensor:
    """Standardise each token to zero mean and unit standard deviation over its last axis.

    Args:
        embeddings: (..., D), any float type.

    Returns:
        (..., D) float32; standard deviation unbiased, epsilon 1e-8, a constant token becomes zeros.
    """
    x = embeddings.float()
    x = x - x.mean(-1, keepdim=True)
    # On a CPU the norm is many times faster than std(), and equal, as the mean is already 0.
    deviation = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / max(x.shape[-1] - 1, 1) ** 0.5
    return x / (deviation + 1e-8)


class _Block(nn.Module):
    """Residual block, optionally halving the side and modulated by the level."""

    def __init__(self, cin: int, cout: int, stride: int = 1, modulated: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(16, cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride=stride, padding=1)
        self.norm2 = nn.GroupNorm(16, cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()
        self.stride = stride
        self.level = nn.Linear(cout, 2 * cout) if modulated else None
        nn.init.zeros_(self.conv2.weight)
        if self.level is not None:
            nn.init.zeros_(self.level.weight)
            nn.init.zeros_(self.level.bias)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.level is not None and level is not None:
            scale, shift = self.level(level)[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return self.skip(x) + self.conv2(F.silu(h))


class CNNSummarizer(ModelMixin, ConfigMixin):
    """The paper's summarizer (supplement, section 5, figure 3): 128 x 128 x D goes in whole.

    A 1 x 1 projection comes first. While the grid is larger than 8 x 8, residual blocks of stride
    2 follow: one trunk that coarser levels enter earlier. Cells of smaller grids are unpacked to
    fill 8 x 8 by a learned linear map, since an embedding roughly encodes its tile's layout (or
    they are merely repeated). Then come blocks at 8 x 8 modulated by the level, a learned
    position and a final norm. With an outline, the first channels of a token are its latents as
    predicted linearly from the embeddings, bypassing all this and the norm.

    Args:
        dim: D, length of an embedding.
        width: channels of the trunk.
        body: channels of the blocks at 8 x 8.
        context_dim: length of a context token.
        levels: number of levels.
        depth: blocks at 8 x 8.
        unpack: channels that a cell of a small grid is unpacked to; 0 repeats it.
        outline_channels: C of the latents whose outline tokens hold (`Outline`); 0 for none.
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 384,
        width: int = 96,
        body: int = 192,
        context_dim: int = 512,
        levels: int = 8,
        depth: int = 2,
        unpack: int = 0,
        outline_channels: int = 0,
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(dim, width, 1)
        # Index i halves a side of 8 * 2**(i + 1): the largest grid passes through all of them.
        self.trunk = nn.ModuleList(
            _Block(width, width, stride=2) for _ in range(max(levels - 4, 0))
        )
        self.widen = nn.Conv2d(width, body, 1)
        self.level = nn.Embedding(levels, body)
        self.position = nn.Parameter(torch.randn(1, body, SIDE, SIDE) * 0.02)
        self.blocks = nn.ModuleList(_Block(body, body, modulated=True) for _ in range(depth))
        self.outline = Outline(dim, outline_channels, levels) if outline_channels else None
        own = context_dim - (self.outline.width if self.outline is not None else 0)
        self.out = nn.Conv2d(body, own, 1)
        self.norm = nn.LayerNorm(own)
        # Index k: maps each cell of a grid of 2**k to (8 / 2**k)**2 tokens.
        self.unpackers = nn.ModuleList(
            nn.Conv2d(dim, unpack * (SIDE >> k) ** 2, 1) for k in range(3 if unpack else 0)
        )
        self.enter = nn.Conv2d(unpack, body, 1) if unpack else None

    @property
    def context_shape(self) -> tuple[int, int]:
        """Number of tokens and their length."""
        return SIDE * SIDE, int(self.config["context_dim"])

    def forward(self, grid: Tensor, level: Tensor, shift: Tensor | None = None) -> Tensor:
        """Summarise one batch of grids of one size.

        Args:
            grid: (B, s, s, D) raw embeddings, s a power of two up to 128; with `shift`
                (B, s + 1, s + 1, D), s below 8.
            level: (B,) level of each.
            shift: (B, 2) offset of a patch in its first tile, in tokens, 0 to 8 / s - 1, down and
                right; only if cells are unpacked.

        Returns:
            Context (B, 64, context_dim); token 8 i + j stands for cell (i, j) of the patch.
        """
        x = standardise(grid).permute(0, 3, 1, 2).to(self.position.dtype)
        embeddings = x
        side = x.shape[-1] - (shift is not None)
        if side < SIDE and self.enter is not None:
            x = F.pixel_shuffle(self.unpackers[side.bit_length() - 1](x), SIDE // side)
            if shift is not None:
                x = windows(x, shift)
            x = self.enter(x)
        else:
            x = self.project(x)
            for i in reversed(range(len(self.trunk))):
                if side > SIDE * 2**i:
                    x = self.trunk[i](x)
            if side < SIDE:
                x = x.repeat_interleave(SIDE // side, 2).repeat_interleave(SIDE // side, 3)
            x = self.widen(x)
        code = self.level(level)
        x = x + self.position
        for block in self.blocks:
            x = block(x, code)
        tokens = self.norm(self.out(F.silu(x)).flatten(2).transpose(1, 2))
        if self.outline is None:
            return tokens
        first = self.outline(embeddings, side.bit_length() - 1, shift)
        return torch.cat([first.flatten(2).transpose(1, 2), tokens], 2)
