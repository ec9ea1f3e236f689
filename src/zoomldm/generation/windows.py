"""Windows of a level: where they lie, and how overlapping ones become one field or one image.

Positions are pixels of level k + 2, which are the luminance pixels of level k's latents: 64 to a
patch. Windows of 64 px lie on a lattice of 56 px from the slide's origin, so that neighbours share
one context token. All windows of a level see the same parent and the same noise. Where they
overlap they are blended with weights that rise smoothly; at levels constrained to their parent
these are constant over 2 x 2 values, so that a blend averages down to it wherever the windows do.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 64
STRIDE = 56
OVERLAP = SIDE - STRIDE
CELL = 2  # pixels of level k + 2 along a latent cell
SCALE = 4  # pixels of level k along a pixel of level k + 2

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
    """Number of windows that cover this many pixels along one axis."""
    return max(1, -(-(pixels - OVERLAP) // STRIDE))


def windows_over(start: int, end: int, count: int) -> range:
    """Windows, of `count` along an axis, that overlap pixels `start` to `end` (exclusive).

    Clamped to the first and the last window.
    """
    first = (start - SIDE) // STRIDE + 1
    last = (end - 1) // STRIDE
    return range(min(max(first, 0), count - 1), min(max(last, 0), count - 1) + 1)


def keys_over(top: int, left: int, height: int, width: int, counts: tuple[int, int]) -> list[Key]:
    """(row, col) on the lattice, for all windows that overlap a region."""
    return [
        (i, j)
        for i in windows_over(top, top + height, counts[0])
        for j in windows_over(left, left + width, counts[1])
    ]


def tiles_under(level: int, key: Key) -> tuple[slice, slice]:
    """Rows and columns of the tiles that a window overlaps."""
    rows, cols = (
        slice((start << level) // SIDE, -(-((start + SIDE) << level) // SIDE))
        for start in (key[0] * STRIDE, key[1] * STRIDE)
    )
    return rows, cols


def _ramp(length: int, overlap: int, first: bool, last: bool, even: int) -> NDArray[np.float32]:
    """Weights of a window along one axis, constant in runs of `even`; overlaps add up to 1.

    They rise as 3 x^2 - 2 x^3: a straight ramp has corners, which are steps in what is decoded.
    """
    out = np.ones(length, np.float32)
    along = (np.arange(overlap) // even * even + even / 2) / overlap
    rise = (along**2 * (3 - 2 * along)).astype(np.float32)
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
    even: int = 1,
) -> Field:
    """A region of the field that windows blend into.

    Args:
        windows: at least those that `keys_over` names.
        top: first row, even; outside all windows the nearest row is repeated.
        left: first column, even.
        height: rows, even.
        width: columns, even.
        counts: number of windows along both axes of the level.
        even: weights are constant over so many values along an axis: 2 where the windows average
            down to their parent and the blend must, else 1.
    """
    rows = windows_over(top, top + height, counts[0])
    cols = windows_over(left, left + width, counts[1])
    y0, x0 = rows[0] * STRIDE, cols[0] * STRIDE
    luma = _summed({k: w.luma for k, w in windows.items()}, rows, cols, counts, even)
    chroma = _summed({k: w.chroma for k, w in windows.items()}, rows, cols, counts, even)
    return Field(
        _cropped(luma, top - y0, left - x0, height, width),
        _cropped(chroma, (top - y0) // 2, (left - x0) // 2, height // 2, width // 2),
    )


def blended_image(
    windows: Mapping[Key, NDArray[np.uint8]],
    top: int,
    left: int,
    height: int,
    width: int,
    counts: tuple[int, int],
) -> NDArray[np.uint8]:
    """A region of the image that windows of pixels blend into.

    Args:
        windows: (256, 256, 3) uint8, at least those that `keys_in_pixels` names.
        top: first row, in px of the windows' own level; outside all windows the nearest row is
            repeated.
        left: first column.
        height: rows.
        width: columns.
        counts: number of windows along both axes of the level.

    Returns:
        (height, width, 3) uint8.
    """
    keys = keys_in_pixels(top, left, height, width, counts)
    rows, cols = range(keys[0][0], keys[-1][0] + 1), range(keys[0][1], keys[-1][1] + 1)
    parts = {key: np.moveaxis(windows[key], 2, 0) for key in keys}
    whole = _summed(parts, rows, cols, counts, 1)
    step = STRIDE * SCALE
    region = _cropped(whole, top - rows[0] * step, left - cols[0] * step, height, width)
    return np.ascontiguousarray(np.moveaxis(np.rint(region).astype(np.uint8), 0, 2))


def keys_in_pixels(
    top: int, left: int, height: int, width: int, counts: tuple[int, int]
) -> list[Key]:
    """`keys_over` of a region in pixels of the windows' own level."""
    y, x = top // SCALE, left // SCALE
    tall, wide = -(-(top + height) // SCALE) - y, -(-(left + width) // SCALE) - x
    return keys_over(y, x, tall, wide, counts)


def _summed(
    parts: Mapping[Key, NDArray], rows: range, cols: range, counts: tuple[int, int], even: int
) -> NDArray[np.float32]:
    """Weighted sum of the windows (..., s, s) of a block of the lattice."""
    shape = parts[rows[0], cols[0]].shape
    side = shape[-1]
    stride, overlap = STRIDE * side // SIDE, OVERLAP * side // SIDE
    tall, wide = ((len(span) - 1) * stride + side for span in (rows, cols))
    out = np.zeros((*shape[:-2], tall, wide), np.float32)
    for i in rows:
        down = _ramp(side, overlap, i == 0, i == counts[0] - 1, even)
        for j in cols:
            across = _ramp(side, overlap, j == 0, j == counts[1] - 1, even)
            y, x = (i - rows[0]) * stride, (j - cols[0]) * stride
            out[..., y : y + side, x : x + side] += parts[i, j] * (down[:, None] * across)
    return out


def _cropped(
    values: NDArray[np.float32], top: int, left: int, height: int, width: int
) -> NDArray[np.float32]:
    rows = np.clip(np.arange(top, top + height), 0, values.shape[-2] - 1)
    cols = np.clip(np.arange(left, left + width), 0, values.shape[-1] - 1)
    return np.ascontiguousarray(values[..., rows[:, None], cols])
