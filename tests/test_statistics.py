"""AUC, bootstrap and retrieval against cases known by hand."""

import numpy as np
import pytest

from zoomldm.evaluation.judge import colour_judge, nearest_is_source, retrieval
from zoomldm.evaluation.tiles import SlideTiles
from zoomldm.statistics import auc, bootstrap, colour_statistics, cosine


def test_auc() -> None:
    assert auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 0
    assert auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    positive, negative = np.random.default_rng(0).normal(size=(2, 50)).round(1)
    pairs = positive[:, None] - negative[None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert auc(positive, negative) == pytest.approx(expected)


def test_bootstrap_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 1, 200)
    low, high = bootstrap(values)
    assert low < values.mean() < high
    assert high - low < 0.5


def test_colour_statistics() -> None:
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[..., 0] = 100
    assert colour_statistics(picture).tolist() == [[100, 0, 0, 0, 0, 0]]


def test_cosine() -> None:
    assert cosine(np.eye(2), np.array([[2.0, 0.0]])).tolist() == [[1.0], [0.0]]


def test_retrieval_finds_sources_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    real = (rng.random((20, 1, 1, 3)) * 200).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    real[:, :4] += 20
    noisy = np.clip(real + rng.integers(-3, 4, real.shape), 0, 255).astype(np.uint8)
    sources = np.arange(20)
    assert retrieval(noisy, real, sources, colour_judge).all()
    assert not retrieval(noisy, real, (sources + 1) % 20, colour_judge).any()


def test_pairs() -> None:
    places = np.array([[0, 0], [0, 1], [1, 1], [0, 40]])
    near, far = SlideTiles("x", places, np.zeros((4, 1, 1, 3), np.uint8)).pairs()
    assert near.tolist() == [[0, 1], [1, 2]]
    assert far.tolist() == [[0, 3], [1, 3], [2, 3]]


def test_with_a_floor_a_number_that_is_nearly_always_zero_does_not_decide() -> None:
    real = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    real[:, 0] = 0
    real[0, 0] = 0.001
    generated = real.copy()
    generated[:, 0] = 0.02
    assert not nearest_is_source(generated, real, np.arange(20)).all()
    assert nearest_is_source(generated, real, np.arange(20), floor=0.05).all()
