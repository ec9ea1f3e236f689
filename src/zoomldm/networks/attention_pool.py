"""A vision tower whose embedding is pooled from all tokens by attention (CoCa, CONCH v1.5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.patch_vit import PatchViT, ViTSizes

HEADS = 8


class AttentionPool(nn.Module):
    """Learned queries that attend to all tokens (Yu et al. 2022, section 3.2).

    Args:
        dim: width of queries and output.
        tokens: width of the tokens.
        queries: number of queries.
    """

    def __init__(self, dim: int, tokens: int, queries: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, dim))
        self.ln_k, self.ln_q = nn.LayerNorm(tokens), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(tokens, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens (B, T, tokens): (B, queries, dim)."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, -1)
        found = F.scaled_dot_product_attention(split(query), split(key), split(value))
        return self.to_out(found.transpose(1, 2).flatten(2))


class PooledViT(nn.Module):
    """Vision transformer whose embedding is pooled from all tokens by an `AttentionPool`.

    Its tensors have the names of CONCH v1.5's vision tower.

    Args:
        sizes: sizes of the transformer.
        dim: length of the embedding.
    """

    def __init__(self, sizes: ViTSizes, dim: int) -> None:
        super().__init__()
        self.trunk = PatchViT(sizes, "tokens")
        self.attn_pool_contrast = AttentionPool(dim, sizes.dim)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S), normalised: (B, dim)."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk(images))[:, 0])
