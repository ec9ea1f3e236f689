"""Shared by the transformers: attention of packed queries, keys and values; modulated blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(qkv: Tensor, heads: int, gain: Tensor | None = None) -> Tensor:
    """Self-attention of tokens.

    Args:
        qkv: (B, T, 3 x width), queries, keys and values side by side.
        heads: number of heads that the width is divided among.
        gain: (width / heads,) gain of the normalised queries, with keys normalised too; None for
            no normalisation.

    Returns:
        (B, T, width).
    """
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if gain is not None:
        q = F.layer_norm(q, gain.shape, gain.to(q.dtype)).to(v.dtype)
        k = F.layer_norm(k, gain.shape).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ModulatedBlock(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated (Peebles and Xie 2023).

    A subclass provides these six. With gates of zero the block is the identity.

    Args:
        width: width of a token.
        heads: number of attention heads.
        qk_norm: whether queries and keys are normalised.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.gain = nn.Parameter(torch.ones(width // heads)) if qk_norm else None
        self.qkv = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def modulated(self, x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """Tokens (B, T, width) modulated by shift, scale and gate of attention, then of the MLP.

        Args:
            x: the tokens.
            parts: six tensors (B, 1, width).
        """
        shift, scale, gate = parts[:3]
        h = self.qkv(modulated_norm(x, shift, scale))
        x = x + gate * self.attended(attend(h, self.heads, self.gain))
        shift, scale, gate = parts[3:]
        return x + gate * self.mlp(modulated_norm(x, shift, scale))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens, then scaled by 1 + `scale` and shifted."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def zeroed(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weight and bias to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
