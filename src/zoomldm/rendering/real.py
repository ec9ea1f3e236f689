"""The levels of an archive that consist of stored pixels."""

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.geometry.levels import COUNT, level_size

MOST_CACHED_WHOLE = 1 << 22  # most pixels of a level that is cached whole


class RealLevels:
    """Stored pixels, averaged down from the base layer's own level; thread-safe.

    Attributes:
        first: finest real level, 8 if there is none.
    """

    def __init__(self, archive: Archive) -> None:
        self._base, self._size = archive.base, archive.size
        self.first = self._base.level if self._base else COUNT
        self._whole: dict[int, NDArray[np.uint8]] = {}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region in pixels of a real level, (height, width, 3); white outside."""
        assert self._base is not None
        if level == self._base.level:
            return self._base.read(x, y, width, height)
        wide, high = level_size(*self._size, level)
        inside = x >= 0 and y >= 0 and x + width <= wide and y + height <= high
        if wide * high > MOST_CACHED_WHOLE or not inside:
            return self._base.read_level(level, x, y, width, height)
        if level not in self._whole:
            self._whole[level] = self._base.read_level(level, 0, 0, wide, high)
        return self._whole[level][y : y + height, x : x + width]

    def clear(self) -> None:
        """Drop the levels cached whole."""
        self._whole.clear()
