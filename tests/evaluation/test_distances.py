"""Distances between sets of features against what is known of them."""

import numpy as np
import pytest

from zoomldm.evaluation.distances import (
    Interval,
    cluster_weights,
    frechet,
    frechet_draws,
    frechet_interval,
    kid,
    kid_draws,
    mean_draws,
    paired_draws,
    scaled,
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
    assert kid(a, b) == pytest.approx(within - 2 * across)


def test_kernel_distance_is_unbiased() -> None:
    same = [kid(draw(2 * i, 30), draw(2 * i + 1, 30)) for i in range(300)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0
    apart = [kid(draw(2 * i, 30), draw(2 * i + 1, 30, shift=1)) for i in range(20)]
    assert min(apart) > 1


def test_draws_repeat_the_distance_and_cover_the_truth() -> None:
    """The population's distance, from many pictures, lies in most 95 % intervals of few."""
    truth = kid(draw(0, 2000, 64), draw(1, 2000, 64, shift=0.5))
    inside = 0
    for i in range(20):
        real, generated = draw(10 + i, 100, 64), draw(100 + i, 100, 64, shift=0.5)
        draws = kid_draws(real, {"x": generated})["x"]
        assert draws[0] == pytest.approx(kid(real, generated))
        interval = Interval.of(draws)
        inside += interval.low <= truth <= interval.high
    assert inside >= 16


def test_real_pictures_are_resampled_alike_for_all_sets() -> None:
    """What two sets share then cancels: few real pictures blur each, not their difference."""
    real, sets = draw(0, 20), {k: draw(i, 400, shift=0.5) for i, k in enumerate("ab", 1)}
    draws = kid_draws(real, sets)
    together = (draws["a"] - draws["b"])[1:].std()
    alone = [kid_draws(real, {k: v}, seed=i)[k][1:] for i, (k, v) in enumerate(sets.items())]
    assert together < 0.5 * (alone[0] - alone[1]).std()


def test_frechet_interval_holds_its_value() -> None:
    """Its width is that of distances of fresh pictures."""
    found = frechet_interval(draw(0, 60), draw(1, 60, shift=1), draws=200)
    fresh = [frechet(draw(2 * i, 60), draw(2 * i + 1, 60, shift=1)) for i in range(200)]
    low, high = np.percentile(fresh, [2.5, 97.5])
    assert 0.6 < (found.high - found.low) / (high - low) < 1.7
    assert found.low < found.value < found.high


def test_frechet_by_either_way_is_the_same() -> None:
    """Fewer pictures than features take the short way, more the long one."""
    a, b = draw(0, 30, 40), draw(1, 25, 40, shift=0.3, scale=1.5)
    short = frechet(a, b)
    pad = np.concatenate
    long = frechet(pad([a, a, a[:0]]), pad([b, b, b[:0]]))  # 60 and 50 of 40 features
    grown = [(v - v.mean(0)) * np.sqrt((2 * len(v) - 1) / (2 * (len(v) - 1))) for v in (a, b)]
    again = frechet(*(pad([g, g]) + v.mean(0) for g, v in zip(grown, (a, b), strict=True)))
    assert long != pytest.approx(short, rel=1e-3)
    assert again == pytest.approx(short, rel=1e-6)


def test_paired_distance_leaves_out_a_picture_and_its_source() -> None:
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    k = lambda x, y: (x * y + 1) ** 3  # noqa: E731
    across = (k(1, 3) + k(2, 0)) / 2
    once = np.ones((1, 2))
    assert paired_draws(a, b, once)[0] == pytest.approx(k(1, 2) + k(0, 3) - 2 * across)
    assert paired_draws(a, a, once)[0] == pytest.approx(0)
    assert kid(a, a) < 0  # what it would be with them


def test_scaling_has_one_unit() -> None:
    """A number that is zero in all but one real picture must not outweigh the others."""
    real, generated = draw(0, 50, 8, shift=3, scale=2), draw(1, 50, 8, shift=3, scale=2)
    real[:, 0], generated[:, 0] = 0, 1
    a, b = scaled(real, generated)
    assert np.square(a).mean() == pytest.approx(1)
    assert a.mean(0) == pytest.approx(np.zeros(8), abs=1e-9)
    assert b[:, 0] == pytest.approx(np.full(50, b[0, 0]))
    assert 0 < b[0, 0] < 1
    assert frechet(a, b) < 4


def test_clusters_are_drawn_together() -> None:
    weights = cluster_weights(np.array([5, 5, 9, 9, 9, 7]), draws=200)
    assert weights.shape == (201, 6)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 4]).all()
    assert (weights[1:, 0] + weights[1:, 2] + weights[1:, 5] == 3).all()
    assert weights[1:].std(0).min() > 0.5


def test_clustered_intervals_are_wider() -> None:
    values = np.repeat(np.random.default_rng(0).standard_normal(10), 10)
    found = {}
    for name, clusters in (("alone", np.arange(100)), ("together", np.arange(100) // 10)):
        interval = Interval.of(mean_draws(values, cluster_weights(clusters)))
        assert interval.value == pytest.approx(values.mean())
        found[name] = interval.high - interval.low
    assert found["together"] > 2 * found["alone"]


def test_frechet_draws_hold_the_distance() -> None:
    real, generated = draw(0, 60), draw(1, 60, shift=1)
    weights = cluster_weights(np.arange(60), draws=60)
    interval = Interval.of(frechet_draws(real, generated, weights))
    assert interval.value == pytest.approx(frechet(generated, real))
    assert interval.low < interval.value < interval.high


def test_an_interval_without_draws_says_so() -> None:
    interval = Interval.of(np.array([3.0]))
    assert interval.value == 3
    assert np.isnan(interval.low) and np.isnan(interval.high)
