"""Counter-based normal noise: a value depends on its position, never on earlier draws."""

import hashlib

import numpy as np
from numpy.typing import NDArray

BLOCK = 16


def _block(seed: int, level: int, step: int, row: int, col: int, channels: int) -> NDArray:
    """(channels, BLOCK, BLOCK) float32 by Box-Muller from a Philox stream of its own."""
    name = f"zoomldm noise 1/{seed}/{level}/{step}/{row}/{col}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    # Raw Philox words are the same in every numpy version; its normal streams need not be.
    words = np.random.Philox(key=key).random_raw(channels * BLOCK * BLOCK)
    halves = words.view(np.uint32).reshape(-1, 2)
    uniform = (halves.astype(np.float64) + 0.5) / 2.0**32
    normal = np.sqrt(-2 * np.log(uniform[:, 0])) * np.cos(2 * np.pi * uniform[:, 1])
    return normal.astype(np.float32).reshape(channels, BLOCK, BLOCK)


def noise(
    seed: int, level: int, step: int, y: int, x: int, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Cut a window from the infinite field of standard normal noise of (seed, level, step).

    Overlapping windows have the same values where they overlap.

    Args:
        seed: any whole number.
        level: the field's level.
        step: timestep at which the noise is added.
        y: first row (latent cells of the level, from the slide's origin; may be negative).
        x: first column.
        shape: (channels, height, width) of the window; channel c does not depend on `channels`.

    Returns:
        float32 of `shape`, the same on every machine to the last bits of log and cos.
    """
    channels, height, width = shape
    row0, col0 = y // BLOCK, x // BLOCK
    rows = range(row0, (y + height - 1) // BLOCK + 1)
    cols = range(col0, (x + width - 1) // BLOCK + 1)
    field = np.concatenate(
        [
            np.concatenate([_block(seed, level, step, r, c, channels) for c in cols], axis=2)
            for r in rows
        ],
        axis=1,
    )
    top, left = y - row0 * BLOCK, x - col0 * BLOCK
    return np.ascontiguousarray(field[:, top : top + height, left : left + width])
