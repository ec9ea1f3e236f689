"""Crops of patches with their low image, the training data of the low-pass decoder."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive.base import halve
from zoomldm.data.slide_patches import SlidePatches
from zoomldm.geometry.levels import COUNT, TILE
from zoomldm.geometry.orientation import TURNS, turn_array

BLOCK = 16  # crops start at multiples of it, as the latents' blocks do
FINE = 0.7  # probability of level 0; the other levels have equal parts of the rest


@dataclass(frozen=True)
class Crops:
    """A batch of images with their low images two octaves coarser.

    Attributes:
        images: (n, S, S, 3) uint8.
        low: (n, S / 4, S / 4, 3) uint8.
        levels: (n,) level of each crop.
        made: (n,) whether a denoiser made the low image; None for nowhere.
    """

    images: NDArray[np.uint8]
    low: NDArray[np.uint8]
    levels: NDArray[np.int64]
    made: NDArray[np.bool_] | None = None


class CropSource(Protocol):
    """A source of crops."""

    def draw(self, rng: np.random.Generator, count: int, side: int) -> Crops:
        """Draw `count` crops of `side` pixels, a multiple of 16."""
        ...


class PatchCrops:
    """Crops of stored patches, in all eight orientations.

    Args:
        patches: patches of all levels.
    """

    def __init__(self, patches: SlidePatches) -> None:
        self.patches = patches
        self._levels = [k for k in range(COUNT) if len(patches.at_level(k))]

    def draw(self, rng: np.random.Generator, count: int, side: int) -> Crops:
        """See `CropSource.draw`; up to 256 px."""
        images, low, levels = [], [], []
        for _ in range(count):
            fine = rng.random() < FINE and 0 in self._levels
            level = 0 if fine else int(rng.choice(self._levels))
            patch = self.patches.read(int(rng.choice(self.patches.at_level(level))))
            y, x = rng.integers(0, (TILE - side) // BLOCK + 1, 2) * BLOCK
            crop = np.ascontiguousarray(
                turn_array(patch[y : y + side, x : x + side], int(rng.integers(TURNS)))
            )
            images.append(crop)
            low.append(halve(crop, 2))
            levels.append(level)
        return Crops(np.stack(images), np.stack(low), np.array(levels, np.int64))
