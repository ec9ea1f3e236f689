"""Which tiles of a slide are tissue, seen at low magnification."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zoomldm.errors import SlideError
from zoomldm.geometry.levels import TILE, level_mpp
from zoomldm.slides.backend import SlideReadError
from zoomldm.slides.slide import Slide

VIEW_LEVEL = 4
CELL = TILE >> VIEW_LEVEL  # px of the view along a tile
SHARE = 0.05  # of a tile's px that must pass
BOUNDS = (12, 40)  # of the threshold: 12 keeps paper out, 40 keeps pale tissue in
_SEPARATION = 8.0  # saturation between the two classes, below which there is but one
_STRIP = 16  # tile rows read at once

TissueMode = Literal["otsu", "all"]


@dataclass(frozen=True)
class Tissue:
    """Tiles that hold tissue.

    Attributes:
        mask: bool (rows, cols) of the slide's grid.
        threshold: saturation (largest minus smallest of R, G, B; 0 to 255) that a pixel must
            exceed; 0 for mode `all`.
        view_mpp: micrometres per pixel at which it was looked at.
        view: the slide at level `VIEW_LEVEL`, uint8 (rows * 16, cols * 16, 3), if it was to be
            kept: a slide without coarse levels is slow to read at one.
    """

    mask: np.ndarray
    threshold: float
    view_mpp: float
    view: np.ndarray | None = None

    @property
    def tiles(self) -> int:
        """Number of tissue tiles."""
        return int(self.mask.sum())


def saturation_threshold(histogram: np.ndarray) -> float:
    """Otsu's threshold (1979) on a histogram of 256 saturations, kept within `BOUNDS`.

    Pixels of saturation 0 (padding, pure black and white) are left out. Where the two classes
    hardly differ there is only one thing to see, tinted paper as a rule: the upper bound.
    """
    counts = histogram.astype(np.float64).copy()
    counts[0] = 0
    if counts.sum() == 0:
        return float(BOUNDS[1])
    values = np.arange(256)
    below, total = np.cumsum(counts), counts.sum()
    sum_below, sum_all = np.cumsum(counts * values), (counts * values).sum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = (sum_all - sum_below) / above - sum_below / below
        between = np.nan_to_num(below * above * gap**2)
    best = int(between.argmax())
    if not gap[best] >= _SEPARATION:
        return float(BOUNDS[1])
    return float(np.clip(best, *BOUNDS))


def _saturation(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _view(
    slide: Slide, row0: int, row1: int, col0: int, col1: int
) -> Iterator[tuple[int, int, int, int, np.ndarray | None]]:
    """Pixels of a box of tiles as (row0, row1, col0, col1, px); None where unreadable.

    A box that can't be read is halved until only the tiles that can't be read are left.
    """
    try:
        pixels = slide.read(
            VIEW_LEVEL, col0 * CELL, row0 * CELL, (col1 - col0) * CELL, (row1 - row0) * CELL
        )
        yield row0, row1, col0, col1, pixels
    except SlideReadError:
        if row1 - row0 == 1 and col1 - col0 == 1:
            yield row0, row1, col0, col1, None
        elif row1 - row0 >= col1 - col0:
            middle = (row0 + row1) // 2
            yield from _view(slide, row0, middle, col0, col1)
            yield from _view(slide, middle, row1, col0, col1)
        else:
            middle = (col0 + col1) // 2
            yield from _view(slide, row0, row1, col0, middle)
            yield from _view(slide, row0, row1, middle, col1)


def find_tissue(slide: Slide, mode: TissueMode = "otsu", keep_view: bool = False) -> Tissue:
    """Tiles of which at least 5 % of the pixels are coloured, seen at 8 mpp.

    A pixel passes if its saturation exceeds Otsu's threshold over the slide. Grey and black
    (padding, pen in black, unstained tissue) never pass; coloured pen does. Tiles whose view
    can't be read count as tissue, so that reading them at full size decides.

    Args:
        slide: the slide.
        mode: `otsu`, or `all` for every tile of the grid.
        keep_view: keep the view (mode `otsu` only).

    Raises:
        SlideError: no tissue.
    """
    rows, cols = slide.grid
    view_mpp = level_mpp(VIEW_LEVEL)
    if mode == "all":
        return Tissue(np.ones((rows, cols), bool), 0.0, view_mpp)
    saturation = np.zeros((rows * CELL, cols * CELL), np.uint8)
    unreadable = np.zeros((rows, cols), bool)
    view = np.full((rows * CELL, cols * CELL, 3), 255, np.uint8) if keep_view else None
    histogram = np.zeros(256, np.int64)
    for top in range(0, rows, _STRIP):
        for row0, row1, col0, col1, pixels in _view(slide, top, min(top + _STRIP, rows), 0, cols):
            if pixels is None:
                unreadable[row0:row1, col0:col1] = True
                continue
            box = np.s_[row0 * CELL : row1 * CELL, col0 * CELL : col1 * CELL]
            saturation[box] = _saturation(pixels)
            histogram += np.bincount(saturation[box].ravel(), minlength=256)
            if view is not None:
                view[box] = pixels
    threshold = saturation_threshold(histogram)
    mask = np.empty((rows, cols), bool)
    for row in range(rows):
        passing = saturation[row * CELL : (row + 1) * CELL] > threshold
        mask[row] = passing.reshape(CELL, cols, CELL).mean(axis=(0, 2)) >= SHARE
    mask |= unreadable
    if not mask.any():
        raise SlideError(
            f"{slide.path}: no tissue found (no tile has {SHARE:.0%} of its pixels above "
            f"saturation {threshold:g}); pass --tissue all to keep every tile"
        )
    return Tissue(mask, threshold, view_mpp, view)
