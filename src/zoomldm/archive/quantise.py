"""Embeddings in 8 bits: integer multiples of one scale per tile.

Reading is a product, `value = code * scale`. A writer is free to choose the scale. Here it is a
tenth of the tile's standard deviation, so that codes have about 5.4 bits of entropy (which zstd's
Huffman stage reaches) while the rounding error, scale^2 / 12 per number, leaves a cosine of about
1 - 0.1^2 / 24 = 0.9996.
"""

from typing import Any

import numpy as np
from imagecodecs import zstd_encode
from numpy.typing import NDArray

from zoomldm.errors import ArchiveError

STEP = 0.1
LIMIT = 127
COSINE_MIN = 0.999
_MANTISSA_BITS = 6


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine between each row of `a` (n, D) and the same row of `b`; 1 if both are zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both, 1.0, np.einsum("nd,nd->n", a, b) / np.where(norms > 0, norms, 1.0))


def round_up(scales: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round up to few significant bits, so that zstd stores a scale in about two bytes."""
    fraction, exponent = np.frexp(scales)
    steps = np.ceil(fraction * 2**_MANTISSA_BITS)
    return np.ldexp(steps, exponent - _MANTISSA_BITS).astype(np.float32)


def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise embeddings (n, D) to codes (n, D) in -127..127 and scales (n,) > 0.

    The scale is a tenth of the tile's standard deviation. It is the largest magnitude over 127 if
    that is greater (so nothing is ever clipped) or if a tenth costs too much of the cosine, as can
    happen with very few dimensions.

    Raises:
        ArchiveError: a number is not finite.
    """
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ArchiveError("an embedding holds NaN or infinity; expected finite numbers")
    if not exact.size:
        return np.zeros(exact.shape, np.int8), np.ones(len(exact), np.float32)
    largest = np.abs(exact).max(axis=1)
    # 2^-120 keeps products of code and scale out of the subnormal range.
    finest = round_up(np.where(largest > 0, np.maximum(largest / LIMIT, 2.0**-120), 1.0))
    scales = np.maximum(round_up(STEP * exact.std(axis=1)), finest)
    codes = _codes(exact, scales)
    poor = cosines(exact, codes) < COSINE_MIN
    scales[poor] = finest[poor]
    codes[poor] = _codes(exact[poor], finest[poor])
    return codes, scales


def _codes(exact: NDArray[np.float64], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.rint(exact / scales[:, None].astype(np.float64)).astype(np.int8)


def dequantise(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (..., D) from codes (..., D) and scales (...): their product in float32."""
    return codes.astype(np.float32) * scales[..., None].astype(np.float32)


def cost_of_int8(values: NDArray[np.float32]) -> int:
    """Approximate compressed bytes of embeddings (n, D) quantised by `quantise`."""
    return sum(len(zstd_encode(part.tobytes(), level=3)) for part in quantise(values))


def to_float16(values: NDArray[np.floating], what: str) -> NDArray[np.float16]:
    """Cast to float16.

    Raises:
        ArchiveError: a number is not finite or over 65504; `what` names the numbers.
    """
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        largest = float(np.max(np.abs(values.astype(np.float64)), initial=0.0))
        raise ArchiveError(f"{what} reach {largest:g}; float16 holds finite numbers up to 65504")
    return half
