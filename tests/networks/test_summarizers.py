"""The CNN summarizer: one trunk for all levels, tokens aligned with the patch."""

import pytest
import torch

from zoomldm.networks.summarizers import CNNSummarizer, standardise


@pytest.fixture(scope="module")
def summarizer() -> CNNSummarizer:
    torch.manual_seed(0)
    network = CNNSummarizer(dim=32, width=16, body=16, context_dim=24, depth=1).eval()
    for block in [*network.trunk, *network.blocks]:
        torch.nn.init.normal_(block.conv2.weight, std=0.1)  # zero at birth, which hides bugs
    return network


@pytest.mark.parametrize("level", range(8))
@torch.no_grad()
def test_every_level_gives_64_tokens(summarizer: CNNSummarizer, level: int) -> None:
    grid = torch.randn(2, 2**level, 2**level, 32)
    context = summarizer(grid, torch.full((2,), level))
    assert context.shape == (2, 64, 24)
    assert torch.isfinite(context).all()


@torch.no_grad()
def test_whole_grid_is_seen(summarizer: CNNSummarizer) -> None:
    """One tile of 128 x 128 changes the context: nothing is pooled away first."""
    grid = torch.randn(1, 128, 128, 32)
    changed = grid.clone()
    changed[0, 77, 31] = torch.randn(32)
    level = torch.tensor([7])
    assert not torch.equal(summarizer(grid, level), summarizer(changed, level))


@torch.no_grad()
def test_tokens_lie_where_their_tiles_lie(summarizer: CNNSummarizer) -> None:
    """A changed tile changes its own token most, in the mean over many grids."""
    draw = torch.Generator().manual_seed(0)
    grid = torch.randn(64, 8, 8, 32, generator=draw)
    changed = grid.clone()
    changed[:, 6, 1] = torch.randn(64, 32, generator=draw)
    level = torch.full((64,), 3)
    gap = (summarizer(grid, level) - summarizer(changed, level)).abs().sum(2).mean(0)
    assert gap.argmax() == 6 * 8 + 1


@torch.no_grad()
def test_small_grids_are_repeated(summarizer: CNNSummarizer) -> None:
    grid = torch.randn(1, 2, 2, 32)
    large = grid.repeat_interleave(4, 1).repeat_interleave(4, 2)
    level = torch.tensor([1])
    torch.testing.assert_close(summarizer(grid, level), summarizer(large, level))


@torch.no_grad()
def test_coarse_levels_enter_the_same_trunk_earlier(summarizer: CNNSummarizer) -> None:
    for parameter in summarizer.trunk[-1].parameters():
        parameter.add_(0)
    calls: list[int] = []
    hooks = [
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
        for i, block in enumerate(summarizer.trunk)
    ]
    for level, expected in ((3, []), (4, [0]), (5, [1, 0]), (7, [3, 2, 1, 0])):
        calls.clear()
        summarizer(torch.randn(1, 2**level, 2**level, 32), torch.tensor([level]))
        assert calls == expected
    for hook in hooks:
        hook.remove()


def test_standardise() -> None:
    x = torch.randn(5, 384) * 7 + 3
    y = standardise(x)
    assert y.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(y.std(-1), torch.ones(5))
    assert standardise(torch.full((2, 8), 4.0)).abs().max() == 0
    half = standardise(x.half())
    assert half.dtype == torch.float32


def test_default_sizes() -> None:
    """The demo's summarizer takes the paper's 128 x 128 x 384 and gives 8 x 8 x 512."""
    network = CNNSummarizer()
    assert network.context_shape == (64, 512)
    assert network.project.in_channels == 384
    assert len(network.trunk) == 4
