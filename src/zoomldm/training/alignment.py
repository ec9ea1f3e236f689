"""Representation alignment of a denoiser's middle block with the patch encoder's embeddings."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.summarizers import SIDE, standardise


class Alignment(nn.Module):
    """Cosine between a U-Net's projected middle activations and the tiles' embeddings there.

    Yu et al. 2024 (REPA, arXiv 2410.06940), section 3.2, with the stored embeddings in place of
    features computed at every step. It is used in training alone and is not part of a pipeline.

    Args:
        width: channels of the middle block.
        dim: D, embedding dimension.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.watched = False
        self.middle: Tensor | None = None

    def watch(self, block: nn.Module) -> None:
        """From now on, store a block's output while training."""
        if not self.watched:
            block.register_forward_hook(self._keep)
            self.watched = True

    def _keep(self, block: nn.Module, _: Any, out: Tensor) -> None:
        if block.training:
            self.middle = out

    def forward(self, wanted: Tensor) -> Tensor:
        """Mean of 1 - cosine, for the block's last stored output.

        Args:
            wanted: (B, 64, D), see `at_tokens`.
        """
        middle, self.middle = self.middle, None
        assert middle is not None
        projected = self.project(F.adaptive_avg_pool2d(middle, SIDE).flatten(2).transpose(1, 2))
        return 1 - F.cosine_similarity(projected.float(), wanted, dim=-1).mean()


def at_tokens(grid: Tensor, shift: Tensor | None = None) -> Tensor:
    """The embeddings that lie under each context token of a patch.

    Args:
        grid: (n, s, s, D) raw embeddings; with `shift` (n, s + 1, s + 1, D).
        shift: (n, 2) tokens, see `CNNSummarizer.forward`.

    Returns:
        (n, 64, D) float32, standardised; for large grids, means of 8 x 8 cells.
    """
    x = standardise(grid)
    side = x.shape[1] - (shift is not None)
    if side >= SIDE:
        x = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), SIDE).permute(0, 2, 3, 1)
        return x.flatten(1, 2)
    place = torch.arange(SIDE, device=x.device).expand(len(x), SIDE)
    rows = cols = place
    if shift is not None:
        rows, cols = place + shift[:, :1], place + shift[:, 1:]
    tokens = SIDE // side
    item = torch.arange(len(x), device=x.device)[:, None, None]
    return x[item, (rows // tokens)[:, :, None], (cols // tokens)[:, None]].flatten(1, 2)
