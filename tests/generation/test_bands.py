"""Coarse of one image, fine of another."""

import torch
from torch.nn import functional as F

from zoomldm.generation.bands import CUTS, GAIN, GLASS, POOR_CUT, cuts_under, gain_after, recombined
from zoomldm.networks.lowpass import Planes


def waves(n: int, period: float) -> torch.Tensor:
    """(1, 1, n, n): stripes of a period that the cosine transform of n values knows."""
    x = torch.arange(n) + 0.5
    return (2 * torch.pi * x / period).cos().expand(1, 1, n, n)


def test_an_image_recombined_with_itself_stays() -> None:
    planes = Planes(torch.randn(2, 1, 64, 64), torch.randn(2, 2, 32, 32))
    for found, wanted in zip(recombined(planes, planes), planes, strict=True):
        torch.testing.assert_close(found, wanted)


def test_coarse_content_is_the_expected_images_and_detail_the_sampled_ones() -> None:
    expected = Planes(waves(64, 32) + waves(64, 128 / 60), torch.zeros(1, 2, 32, 32))
    other = Planes(
        torch.full((1, 1, 64, 64), 0.3) + waves(64, 128 / 52), waves(32, 16).expand(1, 2, -1, -1)
    )
    luma, chroma = recombined(expected, other)
    wanted = (
        waves(64, 32) + waves(64, 128 / 60) + GAIN * (waves(64, 128 / 52) - waves(64, 128 / 60))
    )  # all of it textured
    torch.testing.assert_close(luma, wanted, atol=0.02, rtol=0)
    torch.testing.assert_close(chroma, torch.zeros_like(chroma), atol=0.06, rtol=0)


def test_a_gain_of_one_without_cuts_is_the_sampled_image() -> None:
    shapes = (2, 1, 64, 64), (2, 2, 32, 32)
    expected, sampled = (Planes(*(torch.randn(s) for s in shapes)) for _ in range(2))
    found = recombined(expected, sampled, cuts=(-1.0, -1.0), gain=1.0)  # expected is no glass
    for plane, wanted in zip(found, sampled, strict=True):
        torch.testing.assert_close(plane, wanted, atol=1e-4, rtol=0)


def test_means_are_the_expected_images() -> None:
    expected = Planes(torch.randn(3, 1, 64, 64), torch.randn(3, 2, 32, 32))
    sampled = Planes(torch.randn(3, 1, 64, 64) + 1, torch.randn(3, 2, 32, 32) - 1)
    for found, wanted in zip(recombined(expected, sampled), expected, strict=True):
        n = found.shape[-1]
        torch.testing.assert_close(
            F.avg_pool2d(found, n), F.avg_pool2d(wanted, n), atol=0.01, rtol=0
        )


def test_flat_places_get_less_of_the_detail_than_textured_ones() -> None:
    textured = torch.zeros(1, 1, 64, 64)
    textured[..., :32] = 0.3 * torch.randn(64, 32)
    detail = waves(64, 128 / 60) * 0.02
    chroma = torch.zeros(1, 2, 32, 32)
    luma, _ = recombined(Planes(textured, chroma), Planes(textured + detail, chroma), gain=1.0)
    added = (luma - textured).square()[0, 0].mean(0) / detail.square().mean(-2)[0, 0]
    torch.testing.assert_close(added[40:].sqrt(), torch.full((24,), GLASS), atol=0.05, rtol=0)
    torch.testing.assert_close(added[:24].sqrt(), torch.ones(24), atol=0.05, rtol=0)


def test_few_evaluations_leave_little_variance_and_get_more_gain() -> None:
    assert [gain_after(steps) for steps in (1, 3, 4, 20)] == [GAIN, GAIN, 1, 1]


def test_the_cut_falls_with_what_the_codec_lost() -> None:
    assert cuts_under(0.0) == cuts_under(0.65) == CUTS
    assert cuts_under(0.9) == (POOR_CUT, CUTS[1])
    cuts = [cuts_under(1 - quality / 100)[0] for quality in range(20, 60)]
    assert cuts == sorted(cuts)
