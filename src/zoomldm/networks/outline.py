"""Outline: latents predicted from the embeddings alone by a linear map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = 32  # latent cells along a patch's side
TOKENS = 8  # tokens along a context's side
SPAN = CELLS // TOKENS


class Outline(nn.Module):
    """One linear map per level, from an embedding to the latents of its tile.

    An embedding says much about the layout of its tile: at 2.5x a linear map gives four fifths of
    the latents' variance on unseen slides. Least squares needs no gradient descent, so the maps
    are buffers, set once by `fit`.

    Tiles finer than a cell of the latents are averaged first. A map with many outputs goes
    through a bottleneck of a quarter of the embedding dimension.

    Args:
        dim: D, length of an embedding.
        channels: C of the latents.
        levels: number of levels.
    """

    def __init__(self, dim: int, channels: int, levels: int = 8) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        for level in range(levels):
            outputs = channels * self.cells(level) ** 2
            narrow = dim // 4 if outputs >= 4 * dim else 0
            if narrow:
                self.register_buffer(f"narrow{level}", torch.zeros(narrow, dim))
            self.register_buffer(f"weight{level}", torch.zeros(outputs, narrow or dim))
            self.register_buffer(f"bias{level}", torch.zeros(outputs))

    @staticmethod
    def cells(level: int) -> int:
        """Latent cells along the side of a tile of a level, 1 if tiles are finer."""
        return max(CELLS >> level, 1)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.channels * SPAN**2

    @property
    def fitted(self) -> bool:
        """Whether the maps have been set."""
        return any(bool(value.any()) for value in self.buffers())

    def gathered(self, embeddings: Tensor) -> Tensor:
        """Standardised embeddings (B, D, s, s), averaged down to at most one per cell."""
        side = embeddings.shape[-1]
        return F.avg_pool2d(embeddings, side // CELLS) if side > CELLS else embeddings

    @torch.no_grad()
    def fit(self, level: int, second: Tensor, cross: Tensor, ridge: float) -> None:
        """Set the map of a level by ridge regression.

        Args:
            level: 0 to levels - 1.
            second: (D + 1, D + 1) sum of outer products of embeddings with a one appended.
            cross: (D + 1, outputs) sum of their products with the latents of their tiles, laid
                out as `torch.nn.functional.pixel_unshuffle` does.
            ridge: added to the diagonal, in units of its mean.
        """
        second, cross = second.double(), cross.double()
        eye = torch.eye(len(second), dtype=torch.float64)
        root = torch.linalg.cholesky(second + ridge * second.diagonal().mean() * eye)
        found = torch.cholesky_solve(cross, root)
        narrow = getattr(self, f"narrow{level}", None)
        weight, bias = getattr(self, f"weight{level}"), getattr(self, f"bias{level}")
        if narrow is None:
            weight.copy_(found[:-1].T)
            bias.copy_(found[-1])
            return
        # The best map of that rank for these embeddings: about their mean, in their own metric.
        mean = second[:-1, -1] / second[-1, -1]
        centred = second[:-1, :-1] / second[-1, -1] - torch.outer(mean, mean)
        scale = centred.diagonal().mean()
        root = torch.linalg.cholesky(centred + 1e-6 * scale * torch.eye(len(mean)).double())
        u, s, v = torch.linalg.svd(root.T @ found[:-1], full_matrices=False)
        rank = len(narrow)
        down = torch.linalg.solve_triangular(root.T, u[:, :rank], upper=True)
        narrow.copy_(down.T)
        weight.copy_((s[:rank, None] * v[:rank]).T)
        low_rank = down @ (s[:rank, None] * v[:rank])
        bias.copy_(found[-1] + mean @ (found[:-1] - low_rank))

    def forward(self, embeddings: Tensor, level: int, shift: Tensor | None = None) -> Tensor:
        """Outline of one batch of grids of one level.

        Args:
            embeddings: (B, D, s, s), standardised; s = 2**level, one more with `shift`.
            level: 0 to levels - 1.
            shift: (B, 2) offset of a patch in its first tile, in tokens down and right.

        Returns:
            (B, width, 8, 8): the cells of a token's latents as channels (`pixel_unshuffle`).
        """
        x = self.gathered(embeddings).movedim(1, -1)
        narrow = getattr(self, f"narrow{level}", None)
        if narrow is not None:
            x = F.linear(x, narrow)
        x = F.linear(x, getattr(self, f"weight{level}"), getattr(self, f"bias{level}"))
        latents = F.pixel_shuffle(x.movedim(-1, 1), self.cells(level))
        tokens = F.pixel_unshuffle(latents, SPAN)
        return tokens if shift is None else windows(tokens, shift)


def windows(tokens: Tensor, shift: Tensor) -> Tensor:
    """Windows (B, C, 8, 8) of (B, C, h, w), each starting at its shift (B, 2), down and right."""
    line = torch.arange(TOKENS, device=tokens.device)
    row, col = (shift.to(tokens.device)[:, :, None] + line).unbind(1)
    item = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return tokens.movedim(1, -1)[item, row[:, :, None], col[:, None]].movedim(-1, 1)
