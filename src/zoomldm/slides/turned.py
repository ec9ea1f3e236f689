"""A slide in another orientation: the eight symmetries of a square, for training."""

import numpy as np

from zoomldm.errors import ConfigError
from zoomldm.geometry import levels
from zoomldm.geometry.orientation import TURNS, turn_array
from zoomldm.slides.slide import Slide


class TurnedSlide(Slide):
    """A slide with its raster, padded with white to whole tiles, reoriented by `turn_array`.

    Its tiles and patches are the reoriented tiles and patches of the slide.

    Args:
        slide: the slide; closed with this one.
        orientation: 0 to 7.

    Raises:
        ConfigError: no such orientation.
    """

    def __init__(self, slide: Slide, orientation: int) -> None:
        if not 0 <= orientation < TURNS:
            raise ConfigError(f"turn is {orientation}; expected 0 to {TURNS - 1}")
        self._slide, self.orientation = slide, orientation
        self.path, self.backend, self.vendor = slide.path, slide.backend, slide.vendor
        self.mpp_source, self.icc = slide.mpp_source, slide.icc
        self.file_bytes, self.properties = slide.file_bytes, slide.properties
        order = -1 if orientation % 2 else 1
        rows, cols = slide.grid[::order]
        self.grid = rows, cols
        self.size = cols * levels.TILE, rows * levels.TILE
        width, height = slide.native_size[::order]
        self.native_size = width, height
        self.mpp_x, self.mpp_y = (slide.mpp_x, slide.mpp_y)[::order]

    def close(self) -> None:
        """Close the file; later reads raise an error."""
        self._slide.close()

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """See `Slide.read`."""
        width, height = self.level_size(level)
        region = x, y, w, h
        for _ in range(self.orientation % 4):
            region = height - region[1] - region[3], region[0], region[3], region[2]
            width, height = height, width
        if self.orientation >= 4:
            region = width - region[0] - region[2], *region[1:]
        return np.ascontiguousarray(turn_array(self._slide.read(level, *region), self.orientation))
