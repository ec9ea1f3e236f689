"""The transformer summarizer beside what the recorded tapes hold."""

import pytest
import torch

from zoomldm.errors import PipelineError
from zoomldm.networks.summarizer_vit import ViTSummarizer


@pytest.fixture(scope="module")
def summarizer() -> ViTSummarizer:
    torch.manual_seed(0)
    return ViTSummarizer(dim=16, width=32, hidden=32, context_dim=32, levels=8, depth=1).eval()


@pytest.mark.parametrize("level", range(8))
@torch.no_grad()
def test_every_level_gives_65_tokens(summarizer: ViTSummarizer, level: int) -> None:
    grid = torch.randn(2, 2**level, 2**level, 16)
    context = summarizer(grid, torch.full((2,), level))
    assert context.shape == (2, 65, 32)
    assert context.isfinite().all()


@pytest.mark.parametrize("shape", [(3, 3), (5, 7), (1, 7)])
@torch.no_grad()
def test_odd_grids_lose_no_cell(summarizer: ViTSummarizer, shape: tuple[int, int]) -> None:
    grid = torch.randn(1, *shape, 16)
    tokens = summarizer.tokens(grid)
    assert tokens.shape == (1, 64, 32)
    own = summarizer.project(grid.flatten(1, 2))
    first = 32 - shape[0] * shape[1] // 2
    torch.testing.assert_close(tokens[:, first : first + own.shape[1]], own)


def test_more_cells_than_tokens_are_refused(summarizer: ViTSummarizer) -> None:
    with pytest.raises(PipelineError, match="at most 64 cells"):
        summarizer.tokens(torch.zeros(1, 2, 64, 16))


@torch.no_grad()
def test_in_bfloat16_as_in_float32(summarizer: ViTSummarizer) -> None:
    grid, level = torch.randn(2, 8, 8, 16), torch.tensor([3, 3])
    half = ViTSummarizer.from_config(summarizer.config)
    half.load_state_dict(summarizer.state_dict())
    context = half.eval().to(torch.bfloat16)(grid, level)  # type: ignore[operator]
    assert context.dtype == torch.bfloat16
    torch.testing.assert_close(context.float(), summarizer(grid, level), atol=0.1, rtol=0.1)


@torch.no_grad()
def test_a_constant_token_gives_numbers(summarizer: ViTSummarizer) -> None:
    """In the released float16 its deviation of 0 is divided by."""
    assert summarizer(torch.full((1, 4, 4, 16), 3.0), torch.tensor([2])).isfinite().all()
