"""Real tiles to measure on: level-0 tissue tiles of a slide, with their places."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.slides import open_slide
from zoomldm.slides.tiles import read_tiles
from zoomldm.slides.tissue import find_tissue

PAIRS = 100_000  # most pairs of each kind (adjacent, far apart)


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

    def pairs(
        self, apart_um: float = 2000.0, most: int = PAIRS, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """List index pairs (m, 2), lower first, of adjacent tiles and of tiles far apart.

        Adjacent pairs are found by place. The number of pairs far apart grows with the square of
        the number of tiles; they are sampled if there may be more than `most`.

        Args:
            apart_um: least distance in micrometres, along either axis, of tiles far apart.
            most: largest number of pairs of each kind.
            seed: seed of the sampling.
        """
        n, rng = len(self.places), np.random.default_rng(seed)
        where = {tuple(place): i for i, place in enumerate(self.places.tolist())}
        near = [
            sorted((i, other))
            for (row, col), i in where.items()
            for other in (where.get((row, col + 1)), where.get((row + 1, col)))
            if other is not None
        ]
        if len(near) > most:
            near = [near[i] for i in np.sort(rng.permutation(len(near))[:most])]
        if n * (n - 1) // 2 <= 4 * most:
            candidates = np.stack(np.triu_indices(n, 1), 1)
        else:
            candidates = np.sort(rng.integers(0, n, (4 * most, 2)), 1)
            candidates = np.unique(candidates[candidates[:, 0] < candidates[:, 1]], axis=0)
        gap = np.abs(self.places[candidates[:, 0]] - self.places[candidates[:, 1]]).max(
            -1, initial=0
        )
        far = candidates[gap * TILE * BASE_MPP >= apart_um]
        if len(far) > most:
            far = far[np.sort(rng.permutation(len(far))[:most])]
        return np.array(sorted(near), int).reshape(-1, 2), far


def load_tiles(path: Path, most: int | None = None, seed: int = 0) -> SlideTiles:
    """Load tissue tiles of a slide at 20x.

    Args:
        path: the slide.
        most: size of a random subset, in grid order; None for all tiles.
        seed: seed of the subset.
    """
    with open_slide(path) as slide:
        mask = find_tissue(slide).mask
        if most is not None and mask.sum() > most:
            rows, cols = np.nonzero(mask)
            selected = np.random.default_rng(seed).choice(len(rows), most, replace=False)
            mask = np.zeros_like(mask)
            mask[rows[selected], cols[selected]] = True
        found = [(place, pixels) for place, pixels in read_tiles(slide, mask) if pixels is not None]
    found.sort(key=lambda item: item[0])
    return SlideTiles(path.name, np.array([p for p, _ in found]), np.stack([x for _, x in found]))
