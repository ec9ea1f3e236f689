"""Third-party vision transformers used as patch encoders, with timm's tensor names."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.transformer import attend

HEAD = 64  # width of a head, unless specified otherwise

Pooling = Literal["class", "class and mean", "tokens"]
"""Output of a transformer: its class token; that and the mean of its patches; all tokens."""


@dataclass(frozen=True)
class ViTSizes:
    """Sizes of a `PatchViT`.

    Attributes:
        dim: width, and length of the embedding.
        depth: number of blocks.
        heads: attention heads.
        hidden: width of the first layer of an MLP; of both its halves together if gated.
        patch: side of a patch in px.
        side: patches along the side of the image that the positions were learned on.
        registers: number of register tokens, besides the class token.
        positions_of_class: whether the class token has a position of its own.
        layer_scale: whether each residual branch is scaled by learned values.
        gated: SwiGLU instead of the MLP with GELU.
        positions_of_registers: whether the registers have positions of their own, after the
            class token's.
    """

    dim: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    patch: int = 16
    side: int = 14
    registers: int = 0
    positions_of_class: bool = True
    layer_scale: bool = False
    gated: bool = False
    positions_of_registers: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; later fields only if not at default (digests depend on it)."""
        values = asdict(self)
        if not self.positions_of_registers:
            del values["positions_of_registers"]
        return values

    @property
    def positions_before(self) -> int:
        """Number of positions before those of the patches."""
        return int(self.positions_of_class) + self.positions_of_registers * self.registers

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], heads: int | None = None) -> "ViTSizes":
        """Infer the sizes of a transformer from its tensors.

        Args:
            tensors: by timm's names.
            heads: attention heads, which tensors don't reveal; None for heads of width 64.

        Raises:
            KeyError: a tensor that such a transformer has is missing.
            ValueError: the sizes contradict each other.
        """
        dim, _, patch, _ = tensors["patch_embed.proj.weight"].shape
        positions = tensors["pos_embed"].shape[1]
        side = int(positions**0.5)
        registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
        before = positions - side**2
        depth = 0
        while f"blocks.{depth}.norm1.weight" in tensors:
            depth += 1
        hidden, back = (tensors[f"blocks.0.mlp.fc{i}.weight"].shape for i in (1, 2))
        if not depth or dim % (heads or HEAD) or before not in (0, 1, 1 + registers):
            raise ValueError(f"width {dim}, {depth} blocks, {positions} positions")
        return cls(
            dim=dim,
            depth=depth,
            heads=heads or dim // HEAD,
            hidden=hidden[0],
            patch=patch,
            side=side,
            registers=registers,
            positions_of_class=before > 0,
            layer_scale="blocks.0.ls1.gamma" in tensors,
            gated=hidden[0] == 2 * back[1],
            positions_of_registers=before > 1,
        )


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(self.qkv(x), self.heads))


class _MLP(nn.Module):
    def __init__(self, dim: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden // 2 if gated else hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.gated:  # Shazeer 2020: the first half gates the second
            gate, value = x.chunk(2, -1)
            return self.fc2(F.silu(gate) * value)
        return self.fc2(F.gelu(x))


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    """Pre-norm transformer block: (B, T, dim) -> the same."""

    def __init__(self, sizes: ViTSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.dim, eps=1e-6)
        self.attn = _Attention(sizes.dim, sizes.heads)
        self.ls1 = _Scale(sizes.dim) if sizes.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(sizes.dim, eps=1e-6)
        self.mlp = _MLP(sizes.dim, sizes.hidden, sizes.gated)
        self.ls2 = _Scale(sizes.dim) if sizes.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchViT(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021) whose class token is the embedding.

    With LayerScale (Touvron et al. 2021), register tokens (Darcet et al. 2024) and SwiGLU if
    `sizes` says so. Its tensors have timm's names, which DINO's backbone shares.

    Args:
        sizes: sizes of the transformer.
        pooling: which tokens are returned.
    """

    def __init__(self, sizes: ViTSizes, pooling: Pooling = "class") -> None:
        super().__init__()
        self.sizes, self.pooling = sizes, pooling
        own = sizes.positions_before
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.dim))
        if sizes.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, sizes.registers, sizes.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, own + sizes.side**2, sizes.dim))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, sizes.dim, sizes.patch, stride=sizes.patch)}
        )
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.dim, eps=1e-6)
        for value in (self.cls_token, self.pos_embed):
            nn.init.normal_(value, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S), normalised, S a multiple of the patch side.

        Returns:
            (B, dim); (B, 2 dim) for `class and mean`; (B, T, dim) for `tokens`.
        """
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        side = images.shape[-1] // self.sizes.patch
        of_class, of_patches = self._positions(side)
        head = self.cls_token
        if self.sizes.registers and not self.sizes.positions_of_registers:
            head = torch.cat([head + of_class, self.reg_token], 1)
        elif self.sizes.registers:
            head = torch.cat([head, self.reg_token], 1) + of_class
        else:
            head = head + of_class
        x = torch.cat([head.expand(len(x), -1, -1), x + of_patches], 1)
        for block in self.blocks:
            x = block(x)
        if self.pooling == "class":
            return self.norm(x[:, 0])
        x = self.norm(x)
        if self.pooling == "tokens":
            return x
        return torch.cat([x[:, 0], x[:, 1 + self.sizes.registers :].mean(1)], -1)

    def _positions(self, side: int) -> tuple[Tensor | float, Tensor]:
        """Positions of the tokens before the patches, and those of `side` x `side` patches."""
        own = self.sizes.positions_before
        of_class = self.pos_embed[:, :own] if own else 0.0
        of_patches = self.pos_embed[:, own:]
        if side == self.sizes.side:
            return of_class, of_patches
        square = of_patches.unflatten(1, (self.sizes.side, -1)).permute(0, 3, 1, 2)
        # DINO adds a tenth of a patch, so that rounding never loses one; its networks were
        # evaluated with the resulting positions.
        scale = (side + 0.1) / self.sizes.side
        square = F.interpolate(square, scale_factor=scale, mode="bicubic")
        return of_class, square.flatten(2).transpose(1, 2)
