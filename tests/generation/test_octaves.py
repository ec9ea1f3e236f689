"""Latents of one octave: the sampler's times, its first step, and what must not come out."""

from itertools import pairwise

import pytest
import torch

from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.octaves import (
    Known,
    codec_loss,
    corrected,
    make_latents,
    octave_times,
    restoring_times,
    smoothed,
)
from zoomldm.networks.lowpass import Planes, pooled
from zoomldm.networks.octave_denoiser import PARENT, OctaveDenoiser


@pytest.fixture
def unet() -> OctaveDenoiser:
    torch.manual_seed(0)
    unet = OctaveDenoiser(widths=(16, 16, 16), heads=2, context_dim=32, spatial_context=4)
    return unet.eval().requires_grad_(False)


def test_times_fall_evenly_from_the_start() -> None:
    assert octave_times(4) == (999, 749, 500, 250)
    assert octave_times(2, 500) == (500, 250)
    assert octave_times(1) == (999,)
    for steps, start in ((0, 999), (5, 4), (1, 1000)):
        with pytest.raises(ConfigError):
            octave_times(steps, start)


def test_restoring_times_are_even_in_the_log_of_signal_over_noise(unet: OctaveDenoiser) -> None:
    ratio = torch.logit(unet.alphas.double())
    times = restoring_times(unet.alphas, 5)
    assert (times[0], times[-1]) == (999, 30)
    apart = ratio[list(times)].diff()
    torch.testing.assert_close(apart, apart.mean().expand(4), rtol=0.01, atol=0)
    assert restoring_times(unet.alphas, 1) == (999,)
    assert restoring_times(unet.alphas, 2, 500) == (500, 30)
    assert restoring_times(unet.alphas, 2, 20) == (20, 19)


def test_restoring_times_fall_strictly_however_many(unet: OctaveDenoiser) -> None:
    assert restoring_times(unet.alphas, 999) == tuple(range(999, 0, -1))
    assert restoring_times(unet.alphas, 4, 4) == (4, 3, 2, 1)
    many = restoring_times(unet.alphas, 300, 600)
    assert all(a > b for a, b in pairwise(many)) and many[-1] >= 1
    for steps, start in ((0, 999), (5, 4), (1, 1000)):
        with pytest.raises(ConfigError):
            restoring_times(unet.alphas, steps, start)


def test_one_step_of_an_untrained_network_is_the_heads_mean(unet: OctaveDenoiser) -> None:
    """At pure noise a Gaussian's best guess of the clean latents is very nearly its mean."""
    hint = torch.randn(2, 6, 32, 32)
    unet.spread.fill_(-6)
    known = Known(0, torch.randn(2, 64, 32), PARENT, hint)
    made = make_latents(unet, known, torch.randn(2, 6, 32, 32), octave_times(1))
    torch.testing.assert_close(made, hint, atol=0.05, rtol=0)


def test_samples_of_an_untrained_network_have_the_heads_variance(unet: OctaveDenoiser) -> None:
    unet.spread.fill_(-1.0)
    known = Known(0, torch.zeros(4, 64, 32))
    for times in (octave_times(250), octave_times(100, 400)):
        made = make_latents(unet, known, torch.randn(4, 6, 32, 32), times)
        # DDIM ends at the last step's mean: a little is missing of exp(-1)
        assert abs(float(made.var()) - 0.368) < 0.03


def test_guidance_moves_away_from_the_null_condition(unet: OctaveDenoiser) -> None:
    torch.nn.init.normal_(unet.read.weight, std=0.05)
    unet.spread.fill_(-4)
    known = Known(0, torch.randn(2, 64, 32))
    noise = torch.zeros(2, 6, 32, 32)
    plain = make_latents(unet, known, noise, (999,))
    double = make_latents(unet, known, noise, (999,), guidance=2)
    assert (double - plain).abs().mean() > 0.5 * plain.abs().mean()


def test_numbers_that_are_not_finite_are_an_error(unet: OctaveDenoiser) -> None:
    unet.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(PipelineError, match="not finite"):
        make_latents(unet, Known(0, torch.zeros(1, 64, 32)), torch.zeros(1, 6, 32, 32), (999,))


def test_children_average_down_to_their_parent() -> None:
    parent = Planes(torch.randn(2, 1, 8, 8), torch.randn(2, 2, 4, 4))
    child = Planes(torch.randn(2, 1, 16, 16), torch.randn(2, 2, 8, 8))
    for made in (corrected(child, parent), smoothed(parent)):
        for found, wanted in zip(pooled(made), parent, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_codec_loss() -> None:
    assert codec_loss("png", None) == 0
    assert codec_loss("avif", 40) == pytest.approx(0.6)
