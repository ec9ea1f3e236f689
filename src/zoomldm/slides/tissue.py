"""Which tiles of a slide are tissue, seen at low magnification."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zoomldm.errors import SlideError
from zoomldm.geometry.levels import TILE, level_mpp
from zoomldm.slides.ahead import FEW, in_order
from zoomldm.slides.backend import SlideReadError
from zoomldm.slides.slide import Slide

VIEW_LEVEL = 4
CELL = TILE >> VIEW_LEVEL  # px of the view along a tile
SHARE = 0.05  # of a tile's px that must pass
BOUNDS = (12, 40)  # of the threshold: 12 keeps paper out, 40 keeps pale tissue in
PAPER = 24  # saturation that even yellowed paper does not have
_SEPARATION = 8.0  # saturation between the two classes, below which there is but one
_PAPER_FRACTION = 0.1  # of the pixels: edges of white padding are fewer
_RISE = 4.0  # over a valley's floor; within the tissue of ordinary slides it is 2.4 at most
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


def _otsu(counts: np.ndarray) -> tuple[int, float]:
    """Otsu's threshold (1979) on a histogram, and how far apart the means of its classes are."""
    values = np.arange(len(counts))
    below, total = np.cumsum(counts), counts.sum()
    sum_below, sum_all = np.cumsum(counts * values), (counts * values).sum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = (sum_all - sum_below) / above - sum_below / below
        between = np.nan_to_num(below * above * gap**2)
    best = int(between.argmax())
    return best, float(gap[best])


def _mean(counts: np.ndarray) -> float:
    """The mean of a histogram's values."""
    return float((counts * np.arange(len(counts))).sum() / max(counts.sum(), 1))


def _parts_paper(counts: np.ndarray, at: int) -> bool:
    """Whether the class above `at` is tissue, so that the one below it is paper.

    It is if much lies below, or if it is more coloured than paper ever is: the edges of white
    padding are no paper.
    """
    above = np.where(np.arange(len(counts)) > at, counts, 0)
    return counts[: at + 1].sum() >= _PAPER_FRACTION * counts.sum() or _mean(above) > PAPER


def _is_valley(counts: np.ndarray, at: int) -> bool:
    """Whether a histogram rises to a peak of its own above `at`."""
    smooth = np.convolve(counts, np.ones(5) / 5, "same")
    return bool(smooth[at + 1 :].max(initial=0) >= _RISE * smooth[max(1, at - 2) : at + 3].min())


def saturation_threshold(histogram: np.ndarray) -> float:
    """Between paper and tissue on a histogram of 256 saturations, kept within `BOUNDS`.

    Otsu's method finds two classes. Where pen or dark tissue is one of them, the other holds both
    paper and pale tissue; then it is divided again. That is so if the threshold is above the
    bounds, or if the histogram has a valley below it.

    Pixels of saturation 0 (padding, pure black and white) are left out. Where the two classes
    hardly differ there is only one thing to see: tinted paper, which gives the upper bound, or
    tissue if it is more coloured than paper ever is.
    """
    counts = histogram.astype(np.float64).copy()
    counts[0] = 0
    threshold: float | None = None
    while counts.sum() > 0:
        found, gap = _otsu(counts)
        over = threshold is None or threshold >= BOUNDS[1]
        if not gap >= _SEPARATION:
            if over:
                mean = _mean(counts)
                threshold = mean / 2 if mean > PAPER else BOUNDS[1]
            break
        again = threshold is not None
        if again and not (_parts_paper(counts, found) and (over or _is_valley(counts, found))):
            break
        threshold = found
        counts[found + 1 :] = 0
    return float(np.clip(BOUNDS[1] if threshold is None else threshold, *BOUNDS))


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

    A pixel passes if its saturation exceeds `saturation_threshold` of the slide. Grey and black
    (padding, pen in black, unstained tissue) never pass; coloured pen does, but does not hide
    tissue that is paler than it. Tiles whose view
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

    def seen(top: int) -> list[tuple[int, int, int, int, np.ndarray | None]]:
        return list(_view(slide, top, min(top + _STRIP, rows), 0, cols))

    for _, boxes in in_order(seen, range(0, rows, _STRIP), FEW):
        for row0, row1, col0, col1, pixels in boxes:
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
