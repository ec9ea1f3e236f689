"""Evaluations of a denoiser and the steps between them, on a Gaussian, whose paths are known."""

from itertools import pairwise

import pytest
import torch

from zoomldm.diffusion.learned_range import LearnedRange
from zoomldm.diffusion.multistep import Multistep, spread_times

ALPHAS = LearnedRange.cosine().alphas
MEAN, SPREAD = 0.7, 0.3


def error(times: tuple[int, ...], order: int) -> float:
    """Root mean square error of samples of a Gaussian, in deviations of it."""
    start = torch.randn(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, solver, clean = start, Multistep(order), start
    for now, after in zip(times, (*times[1:], None), strict=True):
        alpha = ALPHAS[now]
        gain = alpha.sqrt() * SPREAD**2 / (alpha * SPREAD**2 + 1 - alpha)
        clean = MEAN + gain * (x - alpha.sqrt() * MEAN)
        if after is not None:
            x = solver.step(x, clean, alpha, ALPHAS[after])
    first = ALPHAS[times[0]]
    scale = (first * SPREAD**2 + 1 - first).sqrt()
    wanted = MEAN + SPREAD * (start - first.sqrt() * MEAN) / scale
    return float((clean - wanted).square().mean().sqrt() / SPREAD)


def test_second_order_is_nearer_to_the_path_with_as_many_evaluations() -> None:
    times = (999, *spread_times(ALPHAS, 7, 967, 44))
    assert error(times, 2) < 0.07
    assert error(times, 1) > 3 * error(times, 2)
    even = tuple(round(999 * (7 - i) / 7) for i in range(8))
    assert error(even, 1) > 4 * error(times, 2)


@pytest.mark.parametrize("order", [1, 2])
def test_many_steps_end_where_the_path_does(order: int) -> None:
    assert error(spread_times(ALPHAS, 300, 999, 1), order) < 0.02


def test_times_are_even_in_the_log_of_signal_over_noise() -> None:
    times = spread_times(ALPHAS, 7, 950, 40)
    assert (times[0], times[-1]) == (950, 40)
    apart = torch.logit(ALPHAS)[list(times)].diff()
    torch.testing.assert_close(apart, apart.mean().expand(6), rtol=0.01, atol=0)
    assert spread_times(ALPHAS, 1, 999, 12) == (999,)
    assert spread_times(ALPHAS, 2, 10, 12) == (10, 9)


@pytest.mark.parametrize(
    ("count", "first", "last"), [(1000, 999, 12), (999, 999, 12), (300, 600, 30), (4, 3, 12)]
)
def test_times_fall_strictly_however_many(count: int, first: int, last: int) -> None:
    times = spread_times(ALPHAS, count, first, last)
    assert len(times) == count and times[0] == first and times[-1] >= 0
    assert all(a > b for a, b in pairwise(times))
