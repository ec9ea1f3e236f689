"""The denoiser: folded latents, context as tokens and in space."""

import pytest
import torch

from zoomldm.networks.denoiser import Denoiser

SMALL = {
    "latent_channels": 4,
    "widths": (16, 32),
    "depth": 1,
    "heads": 2,
    "context_dim": 24,
    "attention": (False, True),
}


@pytest.mark.parametrize(("fold", "spatial"), [(1, 0), (2, 0), (2, 8)])
@torch.no_grad()
def test_shapes(fold: int, spatial: int) -> None:
    network = Denoiser(fold=fold, spatial_context=spatial, **SMALL).eval()
    out = network(torch.randn(2, 4, 32, 32), torch.tensor([3, 900]), torch.randn(2, 64, 24))
    assert out.shape == (2, 4, 32, 32)


@torch.no_grad()
def test_context_acts_in_its_place() -> None:
    """With the context in space, a change of one token is felt most near its cell."""
    torch.manual_seed(0)
    network = Denoiser(fold=2, spatial_context=8, **SMALL).eval()
    x, t = torch.randn(1, 4, 32, 32), torch.tensor([500])
    context = torch.randn(1, 64, 24)
    changed = context.clone()
    changed[0, 8 * 1 + 6] += 5
    gap = (network(x, t, context) - network(x, t, changed)).abs().sum((0, 1))
    cells = gap.reshape(8, 4, 8, 4).sum((1, 3))
    assert cells.argmax() == 8 * 1 + 6


@torch.no_grad()
def test_saved_and_loaded(tmp_path) -> None:
    network = Denoiser(fold=2, spatial_context=8, **SMALL).eval()
    network.save_pretrained(tmp_path)
    again = Denoiser.from_pretrained(tmp_path).eval()
    args = (torch.randn(1, 4, 32, 32), torch.tensor([10]), torch.randn(1, 64, 24))
    assert torch.equal(network(*args), again(*args))
