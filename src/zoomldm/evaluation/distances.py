"""Distances between sets of images by their features: Fréchet and the unbiased kernel distance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000


def frechet(a: NDArray, b: NDArray) -> float:
    """Fréchet distance of Gaussians fitted to features (n, D) and (m, D) (Heusel et al. 2017).

    Biased upwards for small samples: compare it at equal n only.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    # The square roots of the eigenvalues of cov(a) cov(b) are the singular values of this product.
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (a, b))
    spread = np.square(a).sum() + np.square(b).sum()
    if max(len(a), len(b)) <= a.shape[1]:
        cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    else:
        values, vectors = np.linalg.eigh(a.T @ a)
        root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ (b.T @ b) @ root), 0)).sum()
    return float(apart + spread - 2 * cross)


def kernel(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Cubic kernel (x . y / D + 1)^3 of features (n, D) and (m, D): (n, m)."""
    return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3


def kid(a: NDArray, b: NDArray) -> float:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (Binkowski et al. 2018).

    Zero on average for two sets from one distribution, and so sometimes negative.
    """
    ones = np.ones((1, len(a))), np.ones((1, len(b)))
    return float((_within(kernel(a, a), ones[0]) + _within(kernel(b, b), ones[1]))[0]) - 2 * float(
        kernel(a, b).mean()
    )


def _within(gram: NDArray, weights: NDArray) -> NDArray:
    """Mean kernel over pairs of different images, for each row of weights (draws, n)."""
    whole = np.einsum("dn,nm,dm->d", weights, gram, weights, optimize=True)
    own = (weights**2) @ np.diag(gram)
    total = weights.sum(1)
    return (whole - own) / (total**2 - (weights**2).sum(1))


def _weights(n: int, rng: np.random.Generator) -> NDArray:
    """Counts of each of n images in each of DRAWS bootstrap samples; the first row is all ones."""
    counts = rng.multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
    return np.concatenate([np.ones((1, n)), counts])


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: NDArray) -> "Interval":
        """Make an interval of the first value and percentiles of the others."""
        known = draws[1:][np.isfinite(draws[1:])]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        return cls(float(draws[0]), float(low), float(high))


def kid_draws(real: NDArray, sets: dict[str, NDArray], seed: int = 0) -> dict[str, NDArray]:
    """Kernel distances of sets to the same real images, and their bootstrap draws.

    The images of each set and the real images are resampled with replacement. Two copies of one
    image do not count as a pair, because that would raise the distance. The real images are
    resampled alike for all sets, so draws of different sets may be subtracted.

    Args:
        real: features (m, D).
        sets: features (n, D) by name.
        seed: seed of the resampling.

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
    """Fréchet distance with its bootstrap interval.

    Resampling repeats images, which biases this distance upwards. The interval is that of the
    draws, shifted by the bias (their mean minus the distance itself).
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


def scaled(real: NDArray, *sets: NDArray) -> list[NDArray[np.float64]]:
    """Centre features (n, D) on the real mean and divide by the real root mean square std.

    One unit for all D: in a unit of its own, a feature that is zero for nearly all real images
    would outweigh all others.

    Returns:
        The real features, then the other sets.
    """
    mean = real.mean(0, dtype=np.float64)
    unit = np.sqrt(real.var(0, dtype=np.float64).mean()) + 1e-12
    return [(v - mean) / unit for v in (real, *sets)]


def paired_draws(real: NDArray, shown: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Kernel distance of images to their sources, and its bootstrap draws.

    An image and its own source do not count as a pair, like an image and itself: they are near
    each other by design and would make the distance too small.

    Args:
        real: features (n, D).
        shown: features (n, D), row by row of the same places.
        weights: (draws, n) how often each place is in each draw; the first row all ones.

    Returns:
        (draws,).
    """
    inner, own, across = (
        _within(kernel(a, b), weights) for a, b in ((real, real), (shown, shown), (shown, real))
    )
    return inner + own - 2 * across


def frechet_draws(real: NDArray, shown: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Fréchet distance and its draws over resampled places, minus the bias of repeated images.

    Args:
        real: features (n, D).
        shown: features (n, D), row by row of the same places.
        weights: (draws, n) how often each place is in each draw; the first row all ones.

    Returns:
        (draws,), the distance first.
    """
    value = frechet(shown, real)
    again = []
    for row in weights[1:]:
        chosen = np.repeat(np.arange(len(real)), row.astype(int))
        again.append(frechet(shown[chosen], real[chosen]))
    shifted = np.array(again) - np.mean(again) + value if again else np.empty(0)
    return np.concatenate([[value], shifted])


def cluster_weights(clusters: NDArray, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Count each image in each bootstrap draw, with the images of a cluster drawn together.

    Neighbours on a slide are similar, so places are resampled, not single images.

    Args:
        clusters: (n,) cluster of each image.
        draws: number of draws.
        seed: seed of the resampling.

    Returns:
        (1 + draws, n), the first row all ones.
    """
    _, number = np.unique(clusters, return_inverse=True)
    count = number.max() + 1
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(count, np.full(count, 1 / count), draws)
    return np.concatenate([np.ones((1, len(number))), counts[:, number]]).astype(np.float64)


def mean_draws(values: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Mean of values (n,) under each row of weights (draws, n)."""
    return weights @ values / weights.sum(1)
