"""Distances between sets of pictures by their features: Fréchet, and the unbiased kernel one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000


def frechet(a: NDArray, b: NDArray) -> float:
    """Fréchet distance of Gaussians fitted to features (n, D) and (m, D) (Heusel et al. 2017).

    Biased upwards by few samples: compare it at equal n only.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Cubic kernel (x . y / D + 1)^3 of features (n, D) and (m, D): (n, m)."""
    return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3


def kernel_distance(a: NDArray, b: NDArray) -> float:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (Binkowski et al. 2018).

    Zero in the mean for two sets of one distribution, hence sometimes below it.
    """
    ones = np.ones((1, len(a))), np.ones((1, len(b)))
    return float((_within(kernel(a, a), ones[0]) + _within(kernel(b, b), ones[1]))[0]) - 2 * float(
        kernel(a, b).mean()
    )


def _within(gram: NDArray, weights: NDArray) -> NDArray:
    """Mean of the kernel over pairs of different pictures, for each row of weights (draws, n)."""
    whole = np.einsum("dn,nm,dm->d", weights, gram, weights, optimize=True)
    own = (weights**2) @ np.diag(gram)
    total = weights.sum(1)
    return (whole - own) / (total**2 - (weights**2).sum(1))


def _weights(n: int, rng: np.random.Generator) -> NDArray:
    """How often each of n pictures is in each of DRAWS bootstrap samples; first row: once each."""
    drawn = rng.multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
    return np.concatenate([np.ones((1, n)), drawn])


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: NDArray) -> "Interval":
        """The first value, and percentiles of the others."""
        low, high = np.percentile(draws[1:], [2.5, 97.5])
        return cls(float(draws[0]), float(low), float(high))


def kernel_draws(real: NDArray, sets: dict[str, NDArray], seed: int = 0) -> dict[str, NDArray]:
    """Kernel distances of sets to the same real pictures, and their bootstrap draws.

    Pictures of every set and of the real ones are resampled with replacement; two copies of one
    picture are no pair, for they would raise the distance. The real ones are resampled alike for
    all sets, so draws may be subtracted from each other.

    Args:
        real: features (m, D).
        sets: features (n, D) by name.
        seed: of the resampling.

    Returns:
        By name (1 + DRAWS,): the distance, then the draws.
    """
    rng = np.random.default_rng(seed)
    on_real = _weights(len(real), rng)
    inner = _within(kernel(real, real), on_real)
    found = {}
    for name, features in sets.items():
        weights = _weights(len(features), rng)
        own = _within(kernel(features, features), weights)
        across = np.einsum("dn,nm,dm->d", weights, kernel(features, real), on_real, optimize=True)
        found[name] = inner + own - 2 * across / (weights.sum(1) * on_real.sum(1))
    return found


def frechet_interval(real: NDArray, features: NDArray, draws: int = 50, seed: int = 0) -> Interval:
    """Fréchet distance and the bootstrap interval around it.

    Resampling repeats pictures, which biases this distance upwards; the interval is the draws',
    shifted by that bias (their mean against the distance itself).
    """
    rng = np.random.default_rng(seed)
    value = frechet(features, real)
    n, m = len(features), len(real)
    again = np.array(
        [
            frechet(features[rng.integers(0, n, n)], real[rng.integers(0, m, m)])
            for _ in range(draws)
        ]
    )
    low, high = np.percentile(again - again.mean(), [2.5, 97.5])
    return Interval(value, value + float(low), value + float(high))
