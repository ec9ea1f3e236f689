"""The cascade in overlapping, blended windows."""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zoomldm.generation.grids import window_context
from zoomldm.generation.windows import (
    SCALE,
    STRIDE,
    Key,
    blended_image,
    keys_in_pixels,
    tiles_under,
    window_count,
)
from zoomldm.geometry.lattice import Window
from zoomldm.geometry.levels import COUNT, TILE, level_size
from zoomldm.rendering.cascade import Cascade
from zoomldm.rendering.renderer import PatchCount

STEP = STRIDE * SCALE  # px between windows
MARGIN = 2  # px of the level above around a window that its upsampling uses
BLOCK = 2048  # px a side of the region blended at once: bounds memory


class BlendedCascade(Cascade):
    """The paper's cascade in overlapping windows, blended in pixels where they overlap.

    Like the cascade, but a patch (here: a window) of level k begins at multiples of 224 px and
    shares 32 px with each neighbour, where the two are weighted by a ramp. All windows see the
    same noise, keyed by position, and start from the same blended image of the level above; they
    differ only through what each knows of its own tiles. A window is a function of its ancestors
    only, never of its neighbours: pixels do not depend on the order of reads, and a region's cost
    does not depend on other regions.

    `patch`, `patches` and `shape` refer to windows; at a real level there are none.
    """

    method: ClassVar[Literal["blended", "cascade"]] = "blended"
    background: ClassVar[str] = (
        "windows without tissue are the level above upsampled, not generated"
    )

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of windows at a level."""
        width, height = level_size(*self.archive.size, level + 2)
        return window_count(height), window_count(width)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region in pixels of a level, (height, width, 3) uint8 sRGB; white outside."""
        out = np.full((height, width, 3), 255, np.uint8)
        full_w, full_h = self.size(level)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, full_w), min(y + height, full_h)
        for top in range(y0 // BLOCK * BLOCK, y1, BLOCK):
            for left in range(x0 // BLOCK * BLOCK, x1, BLOCK):
                up, down = max(top, y0), min(top + BLOCK, y1)
                near, far = max(left, x0), min(left + BLOCK, x1)
                if near < far:
                    part = self._region(level, up, near, down - up, far - near)
                    out[up - y : down - y, near - x : far - x] = part
        return out

    def _region(
        self,
        level: int,
        top: int,
        left: int,
        height: int,
        width: int,
        windows: Mapping[Key, NDArray[np.uint8]] | None = None,
    ) -> NDArray[np.uint8]:
        """Stored pixels or blended windows; edge pixels are repeated beyond the slide."""
        if self.is_real(level):
            y, x = max(top, 0), max(left, 0)
            stored = self._real.read(level, x, y, left + width - x, top + height - y)
            return np.pad(stored, ((y - top, 0), (x - left, 0), (0, 0)), "edge")
        counts = self.shape(level)
        if windows is None:
            windows = self.patches(level, keys_in_pixels(top, left, height, width, counts))
        return blended_image(windows, top, left, height, width, counts)

    def count(self, windows: Mapping[int, Window]) -> dict[int, PatchCount]:
        """Number of windows that regions (x, y, w, h in px of their level) need, by level.

        A level's count includes the windows that finer levels need. At a real level the patches
        that its region touches are counted.
        """
        counts: dict[int, PatchCount] = {}
        needed: set[Key] = set()
        for level in range(COUNT):
            needed = set(self._above(level - 1, list(needed)))
            own = windows.get(level)
            if self.is_real(level):
                if own is not None:
                    x, y, w, h = own
                    rows, cols = -(-(y + h) // TILE) - y // TILE, -(-(x + w) // TILE) - x // TILE
                    counts[level] = PatchCount(real=rows * cols)
                continue
            if own is not None:
                x, y, w, h = own
                needed.update(keys_in_pixels(y, x, h, w, self.shape(level)))
            if needed:
                generated_count = sum(self._is_generated(level, key) for key in needed)
                counts[level] = PatchCount(generated_count, len(needed) - generated_count)
        return counts

    def _is_generated(self, level: int, place: Key) -> bool:
        return bool(self._tissue[0][tiles_under(level, place)].any())

    def _above(self, level: int, places: list[Key]) -> Iterable[Key]:
        if self.is_real(level + 1):
            return []  # stored pixels are read on demand
        found: dict[Key, None] = {}
        counts = self.shape(level + 1)
        for place in places:
            found.update(dict.fromkeys(keys_in_pixels(*self._under(place), counts)))
        return found

    def _under(self, place: Key) -> tuple[int, int, int, int]:
        """Top, left, height and width of a window's starting region, in px of the level above."""
        top, left = (corner // 2 - MARGIN for corner in self._corner(place))
        return top, left, TILE // 2 + 2 * MARGIN, TILE // 2 + 2 * MARGIN

    def _start(
        self, level: int, place: Key, parents: Mapping[Key, NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        region = self._region(level + 1, *self._under(place), parents)
        box = (MARGIN, MARGIN, MARGIN + TILE // 2, MARGIN + TILE // 2)
        image = Image.fromarray(region)
        return np.array(image.resize((TILE, TILE), Image.Resampling.BICUBIC, box=box))

    def _context(self, level: int, place: Key) -> torch.Tensor:
        return window_context(self.archive, self.pipeline, level, place)

    def _corner(self, place: Key) -> tuple[int, int]:
        return place[0] * STEP, place[1] * STEP
