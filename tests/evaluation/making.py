"""Tissue to measure on, and quick judges of it."""

import numpy as np
from PIL import Image
from synthetic import texture

from zoomldm.evaluation.comparison import Judges
from zoomldm.evaluation.public_features import Looks

FIELD = texture()


class Means:
    """Public features stood in for by means over 32 px, which is quick and tells tiles apart."""

    def look(self, pixels: np.ndarray, maps: bool = True) -> Looks:
        small = pixels.reshape(len(pixels), 8, 32, 8, 32, 3).mean((2, 4)).astype(np.float32)
        return Looks(small.reshape(len(pixels), -1), [np.moveaxis(small, 3, 1) / 255])

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.look(pixels).features


JUDGES = Judges(Means(), Means())  # type: ignore[arg-type]


class Field:
    """A slide that is the synthetic texture, 2,048 px a side."""

    def __init__(self, picture: np.ndarray = FIELD) -> None:
        self.levels = [np.asarray(Image.fromarray(picture).reduce(2**k)) for k in range(4)]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self.levels[level][y : y + height, x : x + width].copy()
