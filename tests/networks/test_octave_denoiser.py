"""The octave denoiser: before training it has the loss of its linear head's Gaussian."""

import pytest
import torch
from torch import Tensor

from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser


@pytest.fixture
def unet() -> OctaveDenoiser:
    torch.manual_seed(0)
    unet = OctaveDenoiser(widths=(16, 16, 16), heads=2, context_dim=32, spatial_context=4)
    return unet.eval().requires_grad_(False)


def inputs(n: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((n, 6, 32, 32), generator=generator)
    context = torch.randn((n, 64, 32), generator=generator)
    return x, torch.arange(n) * 200 + 50, context, torch.arange(n) % 8


def test_untrained_it_predicts_what_a_gaussian_tells(unet: OctaveDenoiser) -> None:
    x, time, context, level = inputs()
    unet.spread.fill_(-0.7)
    variance = float(torch.tensor(-0.7).exp())
    bar = unet.alphas[time].view(-1, 1, 1, 1)
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    # E[x_0 | x_t] of x_0 ~ N(0, s): v = alpha eps - sigma x_0 with eps = (x_t - alpha x_0) / sigma
    clean = alpha * variance / (bar * variance + 1 - bar) * x
    wanted = alpha * (x - alpha * clean) / sigma - sigma * clean
    torch.testing.assert_close(unet(x, time, context, level), wanted, atol=1e-4, rtol=1e-4)


def test_hints_start_as_the_first_guess(unet: OctaveDenoiser) -> None:
    x, _, context, level = inputs()
    for kind in (PARENT, BASE):
        mean, _ = unet.head(context, level, x, torch.full((4,), kind))
        torch.testing.assert_close(mean, x)
    mean, _ = unet.head(context, level, x, torch.full((4,), NONE))
    torch.testing.assert_close(mean, torch.zeros_like(x))


def test_a_hint_of_no_kind_is_not_seen(unet: OctaveDenoiser) -> None:
    torch.nn.init.normal_(unet.unet.conv_out.weight)
    x, time, context, level = inputs()
    kind = torch.tensor([NONE, PARENT, BASE, NONE])
    one = unet(x, time, context, level, x, kind)
    other = unet(x, time, context, level, x + 1, kind)
    same = (one - other).abs().amax((1, 2, 3)) == 0
    assert same.tolist() == [True, False, False, True]


def test_context_level_and_noise_count(unet: OctaveDenoiser) -> None:
    for layer in (unet.unet.conv_out, unet.read):
        torch.nn.init.normal_(layer.weight, std=0.1)
    x, time, context, level = inputs()
    kind = torch.full((4,), PARENT)
    plain = unet(x, time, context, level, x, kind)
    assert (plain - unet(x, time, context * 0, level, x, kind)).abs().max() > 1e-3
    other = (level + 1) % 8
    assert (plain - unet(x, time, context, other, x, kind)).abs().max() > 1e-4
    noisy = unet(x, time, context, level, x, kind, torch.full((4,), 0.4))
    assert (plain - noisy).abs().max() > 1e-4


def test_saved_and_loaded(unet: OctaveDenoiser, tmp_path) -> None:
    x, time, context, level = inputs()
    unet.save_pretrained(tmp_path)
    again = OctaveDenoiser.from_pretrained(tmp_path)
    torch.testing.assert_close(again(x, time, context, level), unet(x, time, context, level))
