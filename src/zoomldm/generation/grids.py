"""The grid of embeddings under a window, which need not begin at a tile boundary."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.archive import Archive
from zoomldm.generation.windows import SIDE, STRIDE, Key
from zoomldm.networks.summarizers import SIDE as TOKENS
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import ZoomLDMPipeline

FINEST_ON_TILES = 3  # finest level whose windows begin at a tile boundary


def window_grid(
    archive: Archive, level: int, key: Key
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Embeddings of all tiles that a window overlaps, and its offset in the first of them.

    Args:
        archive: the archive.
        level: 0..7.
        key: row and column of the window on the lattice of its level.

    Returns:
        (s, s, D), s = 2**level and one more below level `FINEST_ON_TILES`; the window's offset
        inside its first tile in tokens (an eighth of a patch), down and right, 0 from level
        `FINEST_ON_TILES` on.
    """
    side = (1 << level) + (level < FINEST_ON_TILES)
    row, col = ((place * STRIDE << level) // SIDE for place in key)
    tokens = TOKENS >> level if level < FINEST_ON_TILES else 1  # along a tile
    down, right = (place * STRIDE * TOKENS // SIDE % tokens for place in key)
    return archive.embeddings(row, row + side, col, col + side), (down, right)


def averaged_cells(
    grid: NDArray[np.float32], level: int, shift: tuple[int, int]
) -> NDArray[np.float32]:
    """A window's own cells: each the area-weighted mean of the tiles under it.

    Args:
        grid: (2**level + 1, 2**level + 1, D), see `window_grid`.
        level: below `FINEST_ON_TILES`.
        shift: tokens, see `window_grid`.

    Returns:
        (2**level, 2**level, D).
    """
    tokens = TOKENS >> level  # along a tile
    down, right = shift
    rows = ((tokens - down) * grid[:-1] + down * grid[1:]) / tokens
    cells = ((tokens - right) * rows[:, :-1] + right * rows[:, 1:]) / tokens
    return cells.astype(np.float32)


def window_context(archive: Archive, pipeline: ZoomLDMPipeline, level: int, key: Key) -> Tensor:
    """Context (tokens, width) of a window, whichever summarizer a pipeline has.

    A summarizer that unpacks tiles also gets the window's offset in its first tile. Others get the
    mean of the tiles under each cell, as the released one computes itself for patches of over 64.
    """
    grid, shift = window_grid(archive, level, key)
    summarizer = pipeline.summarizer
    if level >= FINEST_ON_TILES:
        return pipeline.context(grid[None], level)[0]
    if isinstance(summarizer, CNNSummarizer) and summarizer.enter is not None:
        return pipeline.context(grid[None], level, torch.tensor([shift]))[0]
    return pipeline.context(averaged_cells(grid, level, shift)[None], level)[0]
