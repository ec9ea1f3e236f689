"""Distances between sets of features against what is known of them."""

import numpy as np
import pytest

from zoomldm.evaluation.distances import (
    Interval,
    frechet,
    frechet_interval,
    kernel_distance,
    kernel_draws,
)


def draw(seed: int, n: int, dim: int = 4, shift: float = 0, scale: float = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)) * scale + shift


def test_frechet_of_known_gaussians() -> None:
    """|shift|^2 + sum of (deviation a - deviation b)^2, with many samples."""
    a, b = draw(0, 40_000), draw(1, 40_000, shift=1, scale=2)
    assert frechet(a, b) == pytest.approx(4 * 1 + 4 * 1, rel=0.03)
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6)


def test_frechet_of_fewer_pictures_than_features() -> None:
    assert np.isfinite(frechet(draw(0, 10, 64), draw(1, 10, 64)))


def test_kernel_distance_by_hand() -> None:
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    k = lambda x, y: (x * y + 1) ** 3  # noqa: E731
    within = k(1, 2) + k(0, 3)
    across = (k(1, 0) + k(1, 3) + k(2, 0) + k(2, 3)) / 4
    assert kernel_distance(a, b) == pytest.approx(within - 2 * across)


def test_kernel_distance_is_unbiased() -> None:
    same = [kernel_distance(draw(2 * i, 30), draw(2 * i + 1, 30)) for i in range(300)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0
    apart = [kernel_distance(draw(2 * i, 30), draw(2 * i + 1, 30, shift=1)) for i in range(20)]
    assert min(apart) > 1


def test_draws_repeat_the_distance_and_cover_the_truth() -> None:
    """The population's distance, from many pictures, lies in most 95 % intervals of few."""
    truth = kernel_distance(draw(0, 2000, 64), draw(1, 2000, 64, shift=0.5))
    inside = 0
    for i in range(20):
        real, made = draw(10 + i, 100, 64), draw(100 + i, 100, 64, shift=0.5)
        draws = kernel_draws(real, {"x": made})["x"]
        assert draws[0] == pytest.approx(kernel_distance(real, made))
        interval = Interval.of(draws)
        inside += interval.low <= truth <= interval.high
    assert inside >= 16


def test_real_pictures_are_resampled_alike_for_all_sets() -> None:
    """What two sets share then cancels: few real pictures blur each, not their difference."""
    real, sets = draw(0, 20), {k: draw(i, 400, shift=0.5) for i, k in enumerate("ab", 1)}
    draws = kernel_draws(real, sets)
    together = (draws["a"] - draws["b"])[1:].std()
    alone = [kernel_draws(real, {k: v}, seed=i)[k][1:] for i, (k, v) in enumerate(sets.items())]
    assert together < 0.5 * (alone[0] - alone[1]).std()


def test_frechet_interval_holds_its_value() -> None:
    """Its width is that of distances of fresh pictures."""
    found = frechet_interval(draw(0, 60), draw(1, 60, shift=1), draws=200)
    fresh = [frechet(draw(2 * i, 60), draw(2 * i + 1, 60, shift=1)) for i in range(200)]
    low, high = np.percentile(fresh, [2.5, 97.5])
    assert 0.6 < (found.high - found.low) / (high - low) < 1.7
    assert found.low < found.value < found.high
