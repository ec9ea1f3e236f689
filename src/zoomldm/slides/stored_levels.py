"""Which of a file's images are levels of its slide, and their downsamples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Size = tuple[int, int]

_ROUNDING = 1.5  # px that a level's side may be off: rounded once or from level to level
_LARGEST = 1 << 12  # largest downsample that is tried


class StoredLevel(NamedTuple):
    """A stored level: its index in the file's list, and its size in px without padding."""

    index: int
    size: Size


def stored_downsample(native: Size, stored: Size) -> tuple[float, float]:
    """Native px per stored px along x and y.

    Sizes of stored levels are rounded, so a power of two or an integer that explains both sizes to
    less than a pixel is preferred to the ratio of the sizes.
    """
    ratio = (native[0] / stored[0], native[1] / stored[1])
    whole = _whole_downsample(native, stored)
    return (float(whole), float(whole)) if whole else ratio


def _whole_downsample(native: Size, stored: Size) -> int | None:
    mean = math.sqrt(native[0] / stored[0] * native[1] / stored[1])
    for whole in (2 ** round(math.log2(mean)), round(mean)):
        if whole and all(abs(n / whole - s) < 1 for n, s in zip(native, stored, strict=True)):
            return whole
    return None


def _padded_downsample(native: Size, stored: Size, tile: Size | None) -> int | None:
    """The integer downsample of a level padded to whole tiles; 0 if it can't be determined.

    None if the level is not padded: its size is then the stored one.
    """
    if tile is None or any(s % t for s, t in zip(stored, tile, strict=True)):
        return None
    whole = _whole_downsample(native, stored)
    if whole and (whole & (whole - 1) == 0 or not any(n % whole for n in native)):
        return None
    most = min(_LARGEST, *native)
    fitting = [
        down
        for down in range(2, most + 1)
        if all(-(-n // (down * t)) * t == s for n, s, t in zip(native, stored, tile, strict=True))
    ]
    powers = [down for down in fitting if down & (down - 1) == 0]
    if len(powers) == 1:
        return powers[0]
    if whole or not fitting:
        return None
    return fitting[0] if len(fitting) == 1 else 0


def _same_aspect(native: Size, stored: Size, slack: float) -> bool:
    """Whether an image has the slide's proportions, except for rounding."""
    ranges = [
        (n / (s + _ROUNDING), n / (s - _ROUNDING) if s > _ROUNDING else math.inf)
        for n, s in zip(native, stored, strict=True)
    ]
    return max(low for low, _ in ranges) <= min(high for _, high in ranges) * (1 + slack)


def usable_levels(
    sizes: Sequence[Size], tiles: Sequence[Size | None], slack: float = 0.0
) -> tuple[list[StoredLevel], list[int]]:
    """The images of a file that are levels of its first image, and the indices of the others.

    An image with other proportions is a label or an overview of the glass, and would be stretched
    over the slide. A level that was padded to whole tiles is used without the padding if its
    downsample can be determined.

    Args:
        sizes: (width, height) in px, the slide itself first.
        tiles: width and height of the images' tiles, None for strips.
        slack: fraction by which the proportions may differ; 0 allows only rounding.
    """
    native = sizes[0]
    levels, others = [StoredLevel(0, native)], []
    for index, (size, tile) in enumerate(zip(sizes, tiles, strict=True)):
        if index == 0:
            continue
        down = _padded_downsample(native, size, tile)
        if down:
            levels.append(StoredLevel(index, (-(-native[0] // down), -(-native[1] // down))))
        elif down is None and _same_aspect(native, size, slack):
            levels.append(StoredLevel(index, size))
        else:
            others.append(index)
    return levels, others


def not_a_level(size: Size, native: Size) -> str:
    """The warning about an image that is left out."""
    return (
        f"a stored image of {size[0]} x {size[1]} px is no smaller copy of the slide's "
        f"{native[0]} x {native[1]} px (a label, or padded); it is not used"
    )
