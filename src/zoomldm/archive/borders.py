"""Steps that lossy coding leaves in an image: where chunks meet, and where a codec's blocks do."""

import bisect
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_STEP = 16  # the most that coding alone makes of a step
_PERIOD = 16  # px between lines of a kind ...
_FIRST = (0, 8)  # ... of which the first lies here: large blocks end at the one, small at both
_BESIDE = (-4, -3, 3, 4)  # steps so many px from a line are untouched by what is taken off at it
_FULL = 32  # the greatest strength of what is done at lines of blocks

Pixels = NDArray[np.uint8]


def even_out(lines: Pixels) -> None:
    """Take off the step between two chunks, in place.

    Across the border lie the px p1 p0 | q0 q1. The step beyond the image's own slope is
    e = (q0 - p0) - 3/8 ((p0 - p1) + (q1 - q0)), taken as 16 at most: 3/8 of it go at p0 and q0
    each, 1/8 at p1 and q1. Of steps 1.5 to 1.8 times those inside it left 0.92 to 1.07 times.

    Args:
        lines: (4, n, 3), the px p1, p0, q0 and q1 along a border.
    """
    step = _beyond(lines)
    near, far = (3 * step + 32) >> 6, (step + 32) >> 6
    lines[:] = np.clip(lines + np.stack([far, near, -near, -far]), 0, 255)


def _beyond(lines: Pixels) -> NDArray[np.int16]:
    """Eight times the steps beyond the image's slope, (..., 3)."""
    p1, p0, q0, q1 = lines.astype(np.int16)
    return np.clip(8 * (q0 - p0) - 3 * ((p0 - p1) + (q1 - q0)), -8 * _STEP, 8 * _STEP)


def even_blocks(pixels: Pixels) -> Pixels:
    """A decoded image without the steps at the borders of its codec's blocks.

    Codecs leave greater steps at lines of 8 and 16 px than beside them, though they smooth there
    themselves (how much greater: benchmarks/blocks.py). With e as in `even_out`, p0 and q0
    move towards each other by a e, p1 and q1 apart by half as much: they were smoothed too far,
    and least squares against the slides gives about these shares. a, of 1/2 at most, is for each
    kind of line, down and across, the least that leaves its steps no greater than those beside
    it in the mean. Integers throughout: the same image on every machine.

    Args:
        pixels: (h, w, 3) sRGB; left as they are.

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
    """Lines of each kind that have all px that are looked at on both sides."""
    for first in _FIRST:
        places = np.arange(first, length, _PERIOD)
        places = places[(places >= 5) & (places <= length - 5)]
        if len(places):
            yield places


def _steps(along: Pixels, places: NDArray[np.intp]) -> int:
    """Sum of absolute differences between the px before the places and those at them."""
    return int(np.abs(along[places].astype(np.int16) - along[places - 1]).sum(dtype=np.int64))


def _strength(four: Pixels, beyond: NDArray[np.int16], beside: int) -> int:
    """The least strength, 64 a, that leaves steps no greater than those beside.

    Args:
        four: (4, lines, n, 3).
        beyond: `_beyond` of them.
        beside: sum over the steps at all places of `_BESIDE`.
    """
    step = four[2].astype(np.int16) - four[1]

    def enough(strength: int) -> bool:
        left = np.abs(step - 2 * ((strength * beyond + 256) >> 9)).sum(dtype=np.int64)
        return len(_BESIDE) * int(left) <= beside

    return bisect.bisect_left(range(_FULL), True, key=enough)
