"""Sources of images for measures: anything with `read(level, x, y, width, height)`."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomldm.geometry.levels import level_size


class Reads(Protocol):
    """Pixels of a slide at any level, real or not."""

    def read(self, level: int, x: int, y: int, width: int, height: int, /) -> NDArray[np.uint8]:
        """Read a region in px of a level: (height, width, 3) uint8 sRGB, white outside."""
        ...


class Enlarged:
    """Pixels of one stored level, enlarged for finer levels and averaged for coarser ones.

    Enlarging is bicubic and independent of the region read: a place always has the same pixels.

    Args:
        pixels: from x, y, width, height in px of the stored level to (height, width, 3) uint8,
            white outside.
        level: the stored level.
        raster: width and height (px) of the slide's 0.5 mpp raster.
    """

    _MARGIN = 3  # px of the stored level: reach of bicubic interpolation

    def __init__(
        self,
        pixels: Callable[[int, int, int, int], NDArray[np.uint8]],
        level: int,
        raster: tuple[int, int],
    ) -> None:
        self._stored, self._level, self._raster = pixels, level, raster

    def size(self, level: int) -> tuple[int, int]:
        """Width and height (px) of the slide at a level."""
        return level_size(*self._raster, level)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region in px of a level; see `Reads`."""
        if level >= self._level:
            step = 2 ** (level - self._level)
            found = self._stored(x * step, y * step, width * step, height * step)
            return np.asarray(Image.fromarray(found).reduce(step)) if step > 1 else found
        step = 2 ** (self._level - level)
        left, top = x // step - self._MARGIN, y // step - self._MARGIN
        right, bottom = -(-(x + width) // step), -(-(y + height) // step)
        right, bottom = right + self._MARGIN, bottom + self._MARGIN
        image = Image.fromarray(self._stored(left, top, right - left, bottom - top))
        box = (x / step - left, y / step - top, (x + width) / step - left)
        return np.asarray(
            image.resize(
                (width, height), Image.Resampling.BICUBIC, (*box, (y + height) / step - top)
            )
        )


def enlarged_image(image: NDArray[np.uint8], level: int, raster: tuple[int, int]) -> Enlarged:
    """Make a reader of an image that covers a whole slide at one level, like a base layer."""

    def pixels(x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        out = np.full((height, width, 3), 255, np.uint8)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, image.shape[1]), min(y + height, image.shape[0])
        if x0 < x1 and y0 < y1:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
        return out

    return Enlarged(pixels, level, raster)


class WithoutBase:
    """An archive as if made without a base layer: embeddings alone."""

    base = None

    def __init__(self, archive: Any) -> None:
        self._archive = archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def overview(self) -> None:
        """No base layer."""
        return None
