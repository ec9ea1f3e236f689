"""Plain pyramidal BigTIFF that slide viewers open."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile

from zoomldm.files import atomic_path
from zoomldm.geometry.levels import TILE


@dataclass(frozen=True)
class PyramidLevel:
    """One page of a pyramid.

    Attributes:
        size: width, height (px).
        mpp: micrometres per pixel.
        tiles: uint8 (256, 256, 3) in row-major order, those at the right and lower edge padded
            with white; consumed once, when the page is written.
    """

    size: tuple[int, int]
    mpp: float
    tiles: Iterable[np.ndarray]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.size[1] // TILE), -(-self.size[0] // TILE)


def _checked(level: PyramidLevel) -> Iterator[np.ndarray]:
    """The level's tiles.

    Raises:
        ValueError: a tile of another shape or type, too few or too many.
    """
    expected, count = level.grid[0] * level.grid[1], 0
    for tile in level.tiles:
        count += 1
        if tile.shape != (TILE, TILE, 3) or tile.dtype != np.uint8 or count > expected:
            raise ValueError(
                f"tile {count} of {expected} is {tile.dtype} {tile.shape}; expected uint8 "
                f"({TILE}, {TILE}, 3)"
            )
        yield tile
    if count != expected:
        raise ValueError(f"{count} tiles given for a level of {expected}")


def write_pyramid(
    path: Path | str,
    levels: Sequence[PyramidLevel],
    description: str = "",
    quality: int = 85,
    software: str = "zoomldm",
) -> None:
    """Write a multi-page pyramidal BigTIFF of JPEG tiles, in constant memory, atomically.

    The finest level comes first; the others are its reduced pages. OpenSlide opens it with the
    finest level's mpp. The same tiles give the same bytes.

    Args:
        path: the target; its folder must exist.
        levels: finest first.
        description: text of the first page, non-ASCII characters escaped.
        quality: JPEG quality, 1 to 100; chroma is halved on both axes (4:2:0).
        software: text of the Software tag.

    Raises:
        TargetError: the target can't be written.
        ValueError: no levels, not in order, or tiles that don't fit their level.
    """
    if not levels or any(a.mpp >= b.mpp for a, b in pairwise(levels)):
        raise ValueError("levels must go from the finest on")
    with atomic_path(path) as part, tifffile.TiffWriter(part, bigtiff=True) as tiff:
        for number, level in enumerate(levels):
            text = description.encode("ascii", "backslashreplace").decode()
            tiff.write(
                _checked(level),
                shape=(level.size[1], level.size[0], 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",  # stored as YCbCr
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": quality},
                maxworkers=1,
                subfiletype=1 if number else 0,
                resolution=(1e4 / level.mpp, 1e4 / level.mpp),
                resolutionunit="CENTIMETER",
                description=None if number else text or None,
                metadata=None,
                software=None if number else software,
            )
