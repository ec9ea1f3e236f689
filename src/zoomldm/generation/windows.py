"""Windows of latents: where they lie, and how overlapping ones become one field of planes.

Positions are pixels of level k + 2, the luminance pixels of level k's latents: 64 to a patch.
Windows of 64 px lie on a lattice of 56 px from the slide's origin, so that neighbours share one
context token. All windows of a level see the same parent and the same noise; where they overlap
they are blended by a ramp of weights that are constant over 2 x 2 values, so that the blend,
averaged down, is still the parent.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 64
STRIDE = 56
OVERLAP = SIDE - STRIDE
CELL = 2  # pixels of level k + 2 a side of a latent cell

Key = tuple[int, int]


class Field(NamedTuple):
    """Planes of a region as arrays.

    Attributes:
        luma: (h, w) float32.
        chroma: (2, h / 2, w / 2) float32.
    """

    luma: NDArray[np.float32]
    chroma: NDArray[np.float32]


def window_count(pixels: int) -> int:
    """Windows that cover so many pixels along one axis."""
    return max(1, -(-(pixels - OVERLAP) // STRIDE))


def windows_over(start: int, end: int, count: int) -> range:
    """Windows, of `count` along an axis, that overlap pixels start to end (not included).

    Beyond the first and the last window these are taken.
    """
    first = (start - SIDE) // STRIDE + 1
    last = (end - 1) // STRIDE
    return range(min(max(first, 0), count - 1), min(max(last, 0), count - 1) + 1)


def keys_over(top: int, left: int, height: int, width: int, counts: tuple[int, int]) -> list[Key]:
    """(row, col) on the lattice of the windows that overlap a region."""
    return [
        (i, j)
        for i in windows_over(top, top + height, counts[0])
        for j in windows_over(left, left + width, counts[1])
    ]


def _ramp(length: int, overlap: int, first: bool, last: bool) -> NDArray[np.float32]:
    """Weights of a window along one axis; they and the neighbours' add up to 1."""
    out = np.ones(length, np.float32)
    rise = ((np.arange(overlap) // 2 * 2 + 1) / overlap).astype(np.float32)
    if not first:
        out[:overlap] = rise
    if not last:
        out[-overlap:] = 1 - rise
    return out


def blended(
    windows: Mapping[Key, Field],
    top: int,
    left: int,
    height: int,
    width: int,
    counts: tuple[int, int],
) -> Field:
    """A region of the field that windows make up.

    Args:
        windows: those that `keys_over` names, at least.
        top: first row, even; where no window lies, the nearest row of one is repeated.
        left: first column, even.
        height: rows, even.
        width: columns, even.
        counts: windows along both axes of the level.
    """
    rows = windows_over(top, top + height, counts[0])
    cols = windows_over(left, left + width, counts[1])
    y0, x0 = rows[0] * STRIDE, cols[0] * STRIDE
    tall, wide = rows[-1] * STRIDE + SIDE - y0, cols[-1] * STRIDE + SIDE - x0
    luma = np.zeros((tall, wide), np.float32)
    chroma = np.zeros((2, tall // 2, wide // 2), np.float32)
    for i in rows:
        for j in cols:
            part = windows[i, j]
            y, x = i * STRIDE - y0, j * STRIDE - x0
            for out, values, scale in ((luma, part.luma, 1), (chroma, part.chroma, 2)):
                side, overlap = SIDE // scale, OVERLAP // scale
                down = _ramp(side, overlap, i == 0, i == counts[0] - 1)
                across = _ramp(side, overlap, j == 0, j == counts[1] - 1)
                place = (
                    ...,
                    slice(y // scale, y // scale + side),
                    slice(x // scale, x // scale + side),
                )
                out[place] += values * (down[:, None] * across)
    return Field(
        _cropped(luma, top - y0, left - x0, height, width),
        _cropped(chroma, (top - y0) // 2, (left - x0) // 2, height // 2, width // 2),
    )


def _cropped(
    values: NDArray[np.float32], top: int, left: int, height: int, width: int
) -> NDArray[np.float32]:
    rows = np.clip(np.arange(top, top + height), 0, values.shape[-2] - 1)
    cols = np.clip(np.arange(left, left + width), 0, values.shape[-1] - 1)
    return np.ascontiguousarray(values[..., rows[:, None], cols])
