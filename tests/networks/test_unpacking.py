"""Summarizers that unpack small grids: a tile's tokens lie where the tile does."""

import pytest
import torch

from zoomldm.networks.summarizers import SIDE, CNNSummarizer


@pytest.fixture
def summarizer() -> CNNSummarizer:
    torch.manual_seed(0)
    net = CNNSummarizer(dim=32, width=16, body=16, context_dim=32, depth=1, unpack=8)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("level", range(8))
def test_every_level_gives_64_tokens(summarizer: CNNSummarizer, level: int) -> None:
    grid = torch.randn(2, 2**level, 2**level, 32)
    assert summarizer(grid, torch.full((2,), level)).shape == (2, 64, 32)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_shift_is_a_window_into_the_tokens(summarizer: CNNSummarizer, level: int) -> None:
    """Without the blocks that look around, a shifted window holds the tokens it says."""
    summarizer.blocks = torch.nn.ModuleList()
    summarizer.position.zero_()
    side, levels = 2**level, torch.full((1,), level)
    grid = torch.randn(1, side + 1, side + 1, 32)
    step = SIDE // side
    for top, left in ((0, 0), (step - 1, 1 % step)):
        window = summarizer(grid, levels, torch.tensor([[top, left]]))
        window = window.reshape(SIDE, SIDE, 32)
        corner = summarizer(grid[:, :side, :side], levels).reshape(SIDE, SIDE, 32)
        torch.testing.assert_close(
            window[: SIDE - top, : SIDE - left], corner[top:, left:], atol=1e-5, rtol=1e-5
        )
    end = summarizer(grid[:, 1:, 1:], levels).reshape(SIDE, SIDE, 32)
    window = summarizer(grid, levels, torch.tensor([[step - 1, step - 1]]))
    torch.testing.assert_close(
        window.reshape(SIDE, SIDE, 32)[1:, 1:], end[: SIDE - 1, : SIDE - 1], atol=1e-5, rtol=1e-5
    )


def test_cells_of_one_tile_differ(summarizer: CNNSummarizer) -> None:
    context = summarizer(torch.randn(1, 1, 1, 32), torch.zeros(1, dtype=torch.long))
    assert context.std(1).mean() > 0.05
