"""Training pictures for the frozen networks: patches of slides, read once into a cache."""

import json
from pathlib import Path

import numpy as np


class TileStore:
    """Patches of several slides: one `NAME.npy` (n, 256, 256, 3) uint8 and `NAME.json` a slide.

    The JSON holds `rows`, a list of (level, row, column): where a patch starts, in tiles.

    Args:
        folder: where the pairs lie.
        names: the slides to use.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.pixels = [np.load(folder / f"{n}.npy", mmap_mode="r") for n in names]
        rows = [json.loads((folder / f"{n}.json").read_text())["rows"] for n in names]
        self.slide = np.concatenate([np.full(len(r), i) for i, r in enumerate(rows)])
        self.index = np.concatenate([np.arange(len(r)) for r in rows])
        where = np.concatenate([np.asarray(r, float) for r in rows])
        self.level, self.start = where[:, 0].astype(int), where[:, 1:]

    def __len__(self) -> int:
        return len(self.slide)

    def read(self, i: int) -> np.ndarray:
        """Patch i: (256, 256, 3) uint8."""
        return self.pixels[self.slide[i]][self.index[i]]

    def at_level(self, level: int) -> np.ndarray:
        """Indices of the patches of a level."""
        return np.nonzero(self.level == level)[0]

    def neighbours(self) -> np.ndarray:
        """For each patch one that touches it on the same slide and level, itself if none."""
        found = np.arange(len(self))
        spots = {
            (s, k, *start): i
            for i, (s, k, start) in enumerate(
                zip(self.slide, self.level, map(tuple, self.start), strict=True)
            )
        }
        for (s, k, row, column), i in spots.items():
            side = 2.0**k
            for step in ((0, side), (side, 0), (0, -side), (-side, 0)):
                other = spots.get((s, k, row + step[0], column + step[1]))
                if other is not None:
                    found[i] = other
                    break
        return found
