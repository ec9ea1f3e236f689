"""Latents of one octave: the sampler's times, its first step, and what must not come out."""

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from zoomldm.errors import ConfigError, PipelineError
from zoomldm.generation.bands import CUTS, GAIN, cuts_under, recombined
from zoomldm.generation.octaves import (
    Known,
    codec_loss,
    corrected,
    make_latents,
    make_planes,
    octave_times,
    smoothed,
)
from zoomldm.networks.lowpass import LowPassAutoencoder, Planes, pooled
from zoomldm.networks.octave_denoiser import BASE, NONE, PARENT, OctaveDenoiser


@pytest.fixture
def unet() -> OctaveDenoiser:
    torch.manual_seed(0)
    unet = OctaveDenoiser(widths=(16, 16, 16), heads=2, context_dim=32, spatial_context=4)
    return unet.eval().requires_grad_(False)


def test_times_begin_at_the_start_and_end_where_little_is_left(unet: OctaveDenoiser) -> None:
    times = octave_times(unet.alphas, 5)
    assert (times[0], times[-1]) == (999, 12)
    assert octave_times(unet.alphas, 1) == (999,)
    assert octave_times(unet.alphas, 2, 500) == (500, 12)
    for steps, start in ((0, 999), (5, 4), (1, 1000)):
        with pytest.raises(ConfigError):
            octave_times(unet.alphas, steps, start)


def test_one_step_of_an_untrained_network_is_the_heads_mean(unet: OctaveDenoiser) -> None:
    """At pure noise a Gaussian's best guess of the clean latents is very nearly its mean."""
    hint = torch.randn(2, 6, 32, 32)
    unet.spread.fill_(-6)
    known = Known(0, torch.randn(2, 64, 32), PARENT, hint)
    latents = make_latents(unet, known, torch.randn(2, 6, 32, 32), octave_times(unet.alphas, 1))
    torch.testing.assert_close(latents, hint, atol=0.05, rtol=0)


def test_samples_of_an_untrained_network_have_the_heads_variance(unet: OctaveDenoiser) -> None:
    unet.spread.fill_(-1.0)
    known = Known(0, torch.zeros(4, 64, 32))
    for times in (octave_times(unet.alphas, 250), octave_times(unet.alphas, 100, 400)):
        latents = make_latents(unet, known, torch.randn(4, 6, 32, 32), times)
        # what is left of exp(-1) in the mean under the last step's noise
        spread, alpha = math.exp(-1), float(unet.alphas[times[-1]])
        wanted = spread * alpha * spread / (alpha * spread + 1 - alpha)
        assert abs(float(latents.var()) - wanted) < 0.015


@pytest.mark.parametrize("kind", [NONE, PARENT, BASE])
def test_the_solver_is_that_of_diffusers(unet: OctaveDenoiser, kind: int) -> None:
    """DPM-Solver++ 2M, whatever is known."""
    torch.nn.init.normal_(unet.unet.conv_out.weight, std=0.05)
    known = Known(0, torch.randn(2, 64, 32), kind, torch.randn(2, 6, 32, 32) if kind else None)
    noise, times = torch.randn(2, 6, 32, 32), octave_times(unet.alphas, 5)
    alphas = unet.alphas.double()
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=(1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])).tolist(),
        prediction_type="v_prediction",
        solver_order=2,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=list(times))
    level = torch.zeros(2, dtype=torch.long)
    kinds, loss = torch.full((2,), kind), torch.zeros(2)
    head = unet.head(known.context, level, known.hint, kinds)
    first = alphas[times[0]].float()
    x = first.sqrt() * head[0] + (first * head[1] + 1 - first).sqrt() * noise
    for time in scheduler.timesteps:
        v = unet(x, time.repeat(2), known.context, level, known.hint, kinds, loss, head)
        x = scheduler.step(v, time, x).prev_sample
    torch.testing.assert_close(make_latents(unet, known, noise, times), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "loose"), [(NONE, False), (PARENT, True), (PARENT, False), (BASE, False)]
)
def test_planes_are_recombined_where_the_coarse_image_is_known(
    unet: OctaveDenoiser, kind: int, loose: bool
) -> None:
    torch.nn.init.normal_(unet.unet.conv_out.weight, std=0.05)
    vae = LowPassAutoencoder(widths=(16, 16, 16), depths=(1, 1, 1))
    hint = torch.randn(2, 6, 32, 32) if kind else None
    known = Known(0, torch.randn(2, 64, 32), kind, hint, 0.7, loose)
    noise, times = torch.randn(2, 6, 32, 32), octave_times(unet.alphas, 3)
    wanted = vae.to_planes(make_latents(unet, known, noise, times))
    if kind != NONE and not loose:
        first = vae.to_planes(make_latents(unet, known, noise, times[:1]))
        wanted = recombined(first, wanted, cuts_under(0.7) if kind == BASE else CUTS, GAIN)
    for found, plane in zip(make_planes(unet, vae, known, noise, times), wanted, strict=True):
        torch.testing.assert_close(found, plane)


def test_timesteps_that_half_precision_takes_for_one_do_no_harm(unet: OctaveDenoiser) -> None:
    half = unet.to(torch.bfloat16)
    known = Known(0, torch.zeros(1, 64, 32, dtype=torch.bfloat16))
    noise = torch.randn(1, 6, 32, 32, dtype=torch.bfloat16)
    latents = make_latents(half, known, noise, octave_times(half.alphas, 500))
    assert 0.5 < float(latents.std()) < 1.5


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
    for planes in (corrected(child, parent), smoothed(parent)):
        for found, wanted in zip(pooled(planes), parent, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_codec_loss() -> None:
    assert codec_loss("png", None) == 0
    assert codec_loss("avif", 40) == pytest.approx(0.6)
    assert codec_loss("webp", 30) == codec_loss("avif", 50)
    assert codec_loss("avif", 60, level=3) == pytest.approx(0.63)
    assert codec_loss("avif", 20, level=1) == pytest.approx(0.57)
    assert codec_loss("avif", 5, level=3) == 1 and codec_loss("avif", 90, level=1) == 0
    assert codec_loss("unknown", 30) == codec_loss("avif", 30)  # refused where it is read
