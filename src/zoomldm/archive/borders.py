"""Removal of the steps that lossy coding leaves between chunks and between a codec's blocks."""

import bisect
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_STEP = 16  # the largest step attributed to coding
_PERIOD = 16  # px between lines of one kind ...
_FIRST = (0, 8)  # ... and the first line of each: large blocks end at the first kind, small at both
_BESIDE = (-4, -3, 3, 4)  # px from a line to the steps that correcting the line leaves unchanged
_FULL = 32  # the greatest strength of the correction at lines of blocks

Pixels = NDArray[np.uint8]


def even_out(lines: Pixels) -> None:
    """Remove the step between two chunks, in place.

    The px across the border are p1 p0 | q0 q1. The step beyond the image's own slope is
    e = (q0 - p0) - 3/8 ((p0 - p1) + (q1 - q0)), clipped to 16: 3/8 of it are removed at p0 and q0
    each, 1/8 at p1 and q1. Steps of 1.5 to 1.8 times those inside chunks fell to 0.92 to 1.07.

    Args:
        lines: (4, n, 3), the px p1, p0, q0 and q1 along a border.
    """
    step = _beyond(lines)
    near, far = (3 * step + 32) >> 6, (step + 32) >> 6
    lines[:] = np.clip(lines + np.stack([far, near, -near, -far]), 0, 255)


def _beyond(lines: Pixels) -> NDArray[np.int16]:
    """Eight times the step beyond the image's slope, (..., 3)."""
    p1, p0, q0, q1 = lines.astype(np.int16)
    return np.clip(8 * (q0 - p0) - 3 * ((p0 - p1) + (q1 - q0)), -8 * _STEP, 8 * _STEP)


def even_blocks(pixels: Pixels) -> Pixels:
    """Remove the steps at the borders of a codec's blocks from a decoded image.

    Codecs leave larger steps at lines of 8 and 16 px than beside them, although they smooth there
    themselves (for how much larger, see benchmarks/blocks.py). With e as in `even_out`, p0 and q0
    move towards each other by a e, p1 and q1 apart by half as much: they were smoothed too far,
    and least squares against the slides gives about these weights. For each kind of line, vertical
    and horizontal, a (at most 1/2) is the smallest value that leaves its steps on average no
    greater than those beside it. The arithmetic is integer: the same image on every machine.

    Args:
        pixels: (h, w, 3) sRGB; not modified.

    Returns:
        The same shape.
    """
    out = pixels.copy()
    for along in (np.moveaxis(out, 1, 0), out):
        for places in _lines(len(along)):
            beside = sum(_steps(along, places + k) for k in _BESIDE)
            four = np.stack([along[places + k] for k in (-2, -1, 0, 1)])
            beyond = _beyond(four)
            strength = _strength(four, beyond, beside)
            near, far = (strength * beyond + 256) >> 9, (strength * beyond + 512) >> 10
            four = np.clip(four + np.stack([-far, near, -near, far]), 0, 255)
            along[places[:, None] + np.arange(-2, 2)] = np.moveaxis(four, 0, 1)
    return out


def _lines(length: int) -> Iterator[NDArray[np.intp]]:
    """Yield the lines of each kind that have all the px needed on both sides."""
    for first in _FIRST:
        places = np.arange(first, length, _PERIOD)
        places = places[(places >= 5) & (places <= length - 5)]
        if len(places):
            yield places


def _steps(along: Pixels, places: NDArray[np.intp]) -> int:
    """Sum of absolute differences between the px at the places and those just before."""
    return int(np.abs(along[places].astype(np.int16) - along[places - 1]).sum(dtype=np.int64))


def _strength(four: Pixels, beyond: NDArray[np.int16], beside: int) -> int:
    """The smallest strength, 64 a, that leaves steps no greater than those beside.

    Args:
        four: (4, lines, n, 3), px across the lines as in `even_out`.
        beyond: `_beyond` of them.
        beside: sum of the steps at all places of `_BESIDE`.
    """
    step = four[2].astype(np.int16) - four[1]

    def enough(strength: int) -> bool:
        left = np.abs(step - 2 * ((strength * beyond + 256) >> 9)).sum(dtype=np.int64)
        return len(_BESIDE) * int(left) <= beside

    return bisect.bisect_left(range(_FULL), True, key=enough)
