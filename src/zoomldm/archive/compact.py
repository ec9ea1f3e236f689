"""Embeddings in a basis computed for the slide: the same D numbers in a third of the bytes.

Embeddings of one slide occupy only part of their space. Their uncentred principal axes (the
Karhunen-Loeve transform), coarsely rounded, are stored once. A tile is stored as integer multiples
of one scale along each of the first K axes. Reading is a sum of products,

    value[d] = scale * sum over k of code[k] * basis[k, d] * step[k],

exact in float64 in any order, since codes and basis are bytes and steps are powers of two.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from imagecodecs import zstd_encode
from numpy.typing import NDArray

from zoomldm.archive.quantise import COSINE_MIN, LIMIT, round_up

_MARGIN = 2e-6  # of the cosine, for float32 and the manifest's six digits
# How the allowed loss of cosine is split: (fraction for the worst tile's part outside the basis,
# energy for rounding the basis). The first split that leaves enough for the codes is used.
_SPLITS = ((0.6, 3e-4), (0.5, 2e-4), (0.35, 2e-4), (0.15, 1e-4))
_RANKS = 16  # K is a multiple of this
_COARSEST, _FINER, _TRIES = 0.35, 2**-0.125, 40  # scales tried, in standard deviations of a tile
_BLOCK = 4096  # tiles processed at once


@dataclass(frozen=True)
class Compact:
    """Embeddings of n tiles.

    Attributes:
        basis: (K, D) int8.
        steps: (K,) float32, powers of two.
        codes: (n, K) int8 in -127..127.
        scales: (n,) float32 > 0.
    """

    basis: NDArray[np.int8]
    steps: NDArray[np.float32]
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def cost(self) -> int:
        """Approximate size in bytes once compressed."""
        parts = (self.basis, self.codes, self.scales)
        return sum(len(zstd_encode(part.tobytes(), level=3)) for part in parts)


def restore(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    basis: NDArray[np.int8],
    steps: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Embeddings (n, D) from codes (n, K), scales (n,), basis (K, D) and steps (K,)."""
    axes = basis.astype(np.float64) * steps[:, None].astype(np.float64)
    sums = codes.astype(np.float64) @ axes
    return (sums * scales[:, None].astype(np.float64)).astype(np.float32)


def _axes(values: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Energies (D,), axes (D, D), largest first, and the worst tile's energy beyond each (D,)."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(norms > 0, norms, 1)
    energies, axes = np.linalg.eigh(unit.T.astype(np.float64) @ unit / max(1, len(unit)))
    energies, axes = energies[::-1], axes[:, ::-1].T
    worst = np.zeros(values.shape[1])
    for first in range(0, len(unit), _BLOCK):
        explained = ((unit[first : first + _BLOCK] @ axes.T) ** 2).cumsum(1)
        worst = np.maximum(worst, (1 - explained).max(0))
    return energies, axes, worst


def _round_basis(
    energies: NDArray[Any], axes: NDArray[Any], loss: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Axes as bytes, and their steps: the less energy along an axis, the coarser the step."""
    rank, dim = axes.shape
    allowed = np.sqrt(12 * loss / (rank * dim) / np.maximum(energies[:rank], 1e-12))
    finest = np.abs(axes).max(1) / LIMIT
    steps = 2.0 ** np.ceil(np.log2(np.maximum(finest, np.minimum(allowed, 2.0**-4))))
    return np.rint(axes / steps[:, None]).astype(np.int8), steps.astype(np.float32)


def compact(values: NDArray[np.float32]) -> Compact | None:
    """Code finite embeddings (n, D) in their own basis, each within cosine 0.999.

    None if some tile can't meet that, as with few tiles in many dimensions.
    """
    if min(values.shape) < 2 or not np.abs(values).any(1).all():
        return None
    energies, axes, worst = _axes(values)
    most = min(values.shape)
    for fraction, loss in _SPLITS:
        enough = np.flatnonzero(worst[:most] <= fraction * 2 * (1 - COSINE_MIN))
        if len(enough):
            rank = min(most, -(-(int(enough[0]) + 1) // _RANKS) * _RANKS)
            found = _fit(values, *_round_basis(energies, axes[:rank], loss))
            if found is not None:
                return found
    return None


def _fit(
    values: NDArray[np.float32], basis: NDArray[np.int8], steps: NDArray[np.float32]
) -> Compact | None:
    """Code all tiles in a basis; None if one of them can't keep its cosine."""
    axes = basis.astype(np.float64) * steps[:, None]
    gram = axes @ axes.T
    if np.linalg.cond(gram) > 1e6:
        return None
    inverse = np.linalg.inv(gram)
    codes = np.zeros((len(values), len(basis)), np.int8)
    scales = np.zeros(len(values), np.float32)
    for first in range(0, len(values), _BLOCK):
        part = np.s_[first : first + _BLOCK]
        coded = _code(values[part].astype(np.float64), axes, gram, inverse)
        if coded is None:
            return None
        codes[part], scales[part] = coded
    return Compact(basis, steps, codes, scales)


def _code(
    exact: NDArray[Any], axes: NDArray[Any], gram: NDArray[Any], inverse: NDArray[Any]
) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Codes and scales of tiles (n, D), each with the coarsest scale that keeps the cosine."""
    along = exact @ axes.T
    places = along @ inverse
    norms, deviation = np.linalg.norm(exact, axis=1), exact.std(1)
    deviation = np.where(deviation > 0, deviation, norms)
    codes = np.zeros(places.shape, np.int8)
    scales = np.zeros(len(exact), np.float32)
    open_ = np.arange(len(exact))
    for attempt in range(_TRIES):
        scale = round_up(_COARSEST * _FINER**attempt * deviation[open_])
        rounded = np.rint(places[open_] / scale[:, None])
        length = np.sqrt(np.einsum("nk,nk->n", rounded @ gram, rounded)) * norms[open_]
        cosine = np.einsum("nk,nk->n", rounded, along[open_]) / np.maximum(length, 1e-300)
        good = (cosine >= COSINE_MIN + _MARGIN) & (np.abs(rounded).max(1) <= LIMIT)
        codes[open_[good]] = rounded[good].astype(np.int8)
        scales[open_[good]] = scale[good]
        open_ = open_[~good]
        if not len(open_):
            return codes, scales
    return None
