"""Detection of a slide's tissue tiles at low magnification."""

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
TISSUE_FRACTION = 0.05  # fraction of a tile's px that must pass
BOUNDS = (12, 40)  # of the threshold: 12 keeps paper out, 40 keeps pale tissue in
PAPER = 24  # saturation that even yellowed paper does not reach
_SEPARATION = 8.0  # saturation between the two classes, below which there is only one
_PAPER_FRACTION = 0.1  # of the pixels: edges of white padding are fewer
_RISE = 4.0  # times a valley's floor; within the tissue of ordinary slides it is 2.4 at most
_STRIP = 16  # tile rows read at once

TissueMode = Literal["otsu", "all"]


@dataclass(frozen=True)
class Tissue:
    """Tiles that contain tissue.

    Attributes:
        mask: bool (rows, cols) of the slide's grid.
        threshold: saturation (largest minus smallest of R, G, B; 0 to 255) that a pixel must
            exceed; 0 for mode `all`.
        view_mpp: micrometres per pixel at which tissue was detected.
        view: the slide at level `VIEW_LEVEL`, uint8 (rows * 16, cols * 16, 3), if `keep_view` was
            set: coarse levels are slow to read from a slide that stores none.
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
    """Otsu's threshold (1979) on a histogram, and the distance between its classes' means."""
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
    """Whether the class above `at` is tissue and the one below it paper.

    It is if many pixels lie below, or if it is more coloured than paper ever is: the edges of white
    padding are not paper.
    """
    above = np.where(np.arange(len(counts)) > at, counts, 0)
    return counts[: at + 1].sum() >= _PAPER_FRACTION * counts.sum() or _mean(above) > PAPER


def _is_valley(counts: np.ndarray, at: int) -> bool:
    """Whether a histogram rises to a separate peak above `at`."""
    smooth = np.convolve(counts, np.ones(5) / 5, "same")
    return bool(smooth[at + 1 :].max(initial=0) >= _RISE * smooth[max(1, at - 2) : at + 3].min())


def saturation_threshold(histogram: np.ndarray) -> float:
    """The threshold between paper and tissue on a histogram of 256 saturations, within `BOUNDS`.

    Otsu's method finds two classes. If pen or dark tissue is one of them, the other contains both
    paper and pale tissue and is divided again. That is the case if the threshold is above the
    bounds, or if the histogram has a valley below it.

    Pixels of saturation 0 (padding, pure black and white) are left out. If the two classes hardly
    differ, there is only one: tinted paper, which gives the upper bound, or tissue if it is more
    coloured than paper ever is.
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
    """Yield pixels of a box of tiles as (row0, row1, col0, col1, px); px is None if unreadable.

    A box that can't be read is halved until only its unreadable tiles are left.
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
    """Find the tiles with at least 5 % of coloured pixels, at 8 mpp.

    A pixel passes if its saturation exceeds the slide's `saturation_threshold`. Grey and black
    (padding, black pen, unstained tissue) never pass. Coloured pen does, but does not hide paler
    tissue. Tiles unreadable in this view count as tissue: reading them at full size decides.

    Args:
        slide: the slide.
        mode: `otsu`, or `all` for every tile of the grid.
        keep_view: keep the view (mode `otsu` only).

    Raises:
        SlideError: no tissue found.
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
        mask[row] = passing.reshape(CELL, cols, CELL).mean(axis=(0, 2)) >= TISSUE_FRACTION
    mask |= unreadable
    if not mask.any():
        raise SlideError(
            f"{slide.path}: no tissue found (no tile has {TISSUE_FRACTION:.0%} of its pixels above "
            f"saturation {threshold:g}); pass --tissue all to keep every tile"
        )
    return Tissue(mask, threshold, view_mpp, view)
