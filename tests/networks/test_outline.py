"""Outline: the linear map is found again from data, and its cells lie where the tile does."""

import pytest
import torch
from torch.nn import functional as F

from zoomldm.networks.outline import Outline
from zoomldm.networks.summarizers import CNNSummarizer, standardise

DIM, CHANNELS = 20, 2


def fit(outline: Outline, level: int, truth: torch.Tensor, count: int = 400) -> torch.Tensor:
    """Fit one level to latents that are linear in embeddings; the embeddings."""
    generator = torch.Generator().manual_seed(level)
    x = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    one = torch.cat([x, x.new_ones(count, 1)], 1)
    y = one @ truth
    outline.fit(level, one.T @ one, one.T @ y, 1e-9)
    return x.float()


@pytest.mark.parametrize("level", [0, 2, 3, 5, 6])
def test_a_linear_map_is_found_again(level: int) -> None:
    outline = Outline(DIM, CHANNELS)
    outputs = CHANNELS * outline.cells(level) ** 2
    generator = torch.Generator().manual_seed(9)
    # Of low rank, so that a bottleneck loses nothing.
    truth = torch.randn(DIM, 4, generator=generator) @ torch.randn(4, outputs, generator=generator)
    truth = torch.cat([truth, torch.randn(1, outputs, generator=generator)]).double()
    assert not outline.fitted
    x = fit(outline, level, truth)
    assert outline.fitted
    side = 1 << level
    grid = x[: side * side] if level < 4 else x[:1].expand(side * side, -1)
    tokens = outline(grid.T.reshape(1, DIM, side, side), level)
    latents = F.pixel_shuffle(tokens, 4)
    cells = outline.cells(level)
    found = F.pixel_unshuffle(latents, cells)[0].flatten(1).T
    wanted = torch.cat([grid, torch.ones(len(grid), 1)], 1).double() @ truth
    torch.testing.assert_close(found, wanted[: len(found)].float(), atol=2e-3, rtol=1e-3)


def test_a_bottleneck_keeps_what_matters_most() -> None:
    outline = Outline(DIM, CHANNELS)
    assert hasattr(outline, "narrow0") and not hasattr(outline, "narrow3")
    outputs = CHANNELS * 32**2
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([1.0] * 5 + [0.01] * 15)  # five directions matter
    truth = scale[:, None] * torch.randn(DIM, outputs, generator=generator)
    truth = torch.cat([truth, torch.zeros(1, outputs)]).double()
    x = fit(outline, 0, truth)
    found = F.pixel_shuffle(outline(x[:50, :, None, None], 0), 4).flatten(1)
    wanted = F.pixel_shuffle((x[:50].double() @ truth[:-1]).float()[:, :, None, None], 32)
    assert float((found - wanted.flatten(1)).square().mean() / wanted.var()) < 1e-3


@pytest.fixture
def summarizer() -> CNNSummarizer:
    torch.manual_seed(0)
    net = CNNSummarizer(
        dim=DIM, width=16, body=16, context_dim=40, depth=1, unpack=8, outline_channels=CHANNELS
    )
    assert net.outline is not None
    for value in net.outline.buffers():
        value.normal_()
    return net.eval()


@pytest.mark.parametrize("level", range(8))
def test_tokens_begin_with_the_outline(summarizer: CNNSummarizer, level: int) -> None:
    assert summarizer.outline is not None
    grid = torch.randn(2, 2**level, 2**level, DIM)
    context = summarizer(grid, torch.full((2,), level))
    assert context.shape == (2, 64, 40)
    x = standardise(grid).permute(0, 3, 1, 2)
    own = summarizer.outline(x, level).flatten(2).transpose(1, 2)
    torch.testing.assert_close(context[:, :, : summarizer.outline.width], own)


def test_shift_moves_the_outline_with_the_tiles(summarizer: CNNSummarizer) -> None:
    assert summarizer.outline is not None
    x = torch.randn(1, DIM, 3, 3)
    whole = summarizer.outline(x, 1)
    moved = summarizer.outline(x, 1, torch.tensor([[3, 1]]))
    torch.testing.assert_close(moved, whole[:, :, 3:11, 1:9])


def test_gradients_leave_it_alone(summarizer: CNNSummarizer) -> None:
    assert summarizer.outline is not None and not list(summarizer.outline.parameters())
    assert any(name.startswith("outline.") for name in summarizer.state_dict())
