"""Real tiles to measure on: level-0 tissue tiles of a slide, with their place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.slides import open_slide
from zoomldm.slides.tiles import read_tiles
from zoomldm.slides.tissue import find_tissue


@dataclass(frozen=True)
class SlideTiles:
    """Tiles of one slide.

    Attributes:
        name: the slide's file name.
        places: (n, 2) row and column on the grid.
        pixels: (n, 256, 256, 3) uint8.
    """

    name: str
    places: np.ndarray
    pixels: np.ndarray

    def pairs(self, apart_um: float = 2000.0) -> tuple[np.ndarray, np.ndarray]:
        """Index pairs (m, 2) of adjacent tiles, and of tiles at least `apart_um` apart."""
        gap = np.abs(self.places[:, None] - self.places[None])
        upper = np.triu(np.ones(gap.shape[:2], bool), 1)
        near = upper & (gap.sum(-1) == 1)
        far = upper & (gap.max(-1) * TILE * BASE_MPP >= apart_um)
        return np.argwhere(near), np.argwhere(far)


def load_tiles(path: Path, most: int | None = None, seed: int = 0) -> SlideTiles:
    """Tissue tiles of a slide at 20x.

    Args:
        path: the slide.
        most: a random subset of this size, in grid order; None for all.
        seed: of the subset.
    """
    with open_slide(path) as slide:
        mask = find_tissue(slide).mask
        if most is not None and mask.sum() > most:
            rows, cols = np.nonzero(mask)
            kept = np.random.default_rng(seed).choice(len(rows), most, replace=False)
            mask = np.zeros_like(mask)
            mask[rows[kept], cols[kept]] = True
        found = [(place, pixels) for place, pixels in read_tiles(slide, mask) if pixels is not None]
    found.sort(key=lambda item: item[0])
    return SlideTiles(path.name, np.array([p for p, _ in found]), np.stack([x for _, x in found]))
