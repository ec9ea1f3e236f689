"""GeoJSON of an archive's tissue and its tiles' confidence, as QuPath reads it."""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.files import atomic_path
from zoomldm.geometry.lattice import Window
from zoomldm.geometry.levels import TILE

Ring = list[tuple[int, int]]
_TISSUE = (60, 130, 60)
_STEPS = 5  # classes of confidence
# Five colours from Viridis, dark to light: distinguishable without red and green.
_COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def outlines(mask: NDArray[np.bool_]) -> list[list[Ring]]:
    """Outlines of the regions of a mask, in units of its cells.

    Cells that meet only at a corner belong to separate regions.

    Args:
        mask: (rows, cols).

    Returns:
        For each region, in the order of their first cells, its closed rings of corners (x, y):
        the outer one first, then those of its holes.
    """
    regions = _labels(mask)
    rings: dict[int, list[Ring]] = {n: [] for n in range(1, int(regions.max(initial=0)) + 1)}
    follows: dict[tuple[int, int], list[tuple[tuple[int, int], int]]] = {}
    padded = np.pad(regions, 1)
    # Edges run with the region on their right, in image coordinates.
    for (dy, dx), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        near = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for row, col in np.argwhere((regions > 0) & (near == 0)).tolist():
            corner = col + start[0], row + start[1]
            goal = col + end[0], row + end[1]
            follows.setdefault(corner, []).append((goal, int(regions[row, col])))
    while follows:
        first = min(follows, key=lambda p: (p[1], p[0]))
        goal, region = follows[first][0]
        ring, here = [first], first
        while True:
            choices = follows[here]
            own = [c for c in choices if c[1] == region]
            choice = own[0]
            if len(ring) > 1 and len(own) > 1:  # two cells meet here: turn right, stay on one
                products = [_cross_product(ring[-2], here, c[0]) for c in own]
                choice = own[products.index(max(products))]
            goal = choice[0]
            choices.remove(choice)
            if not choices:
                del follows[here]
            ring.append(goal)
            here = goal
            if here == first:
                break
        rings[region].append(_corners(ring))
    return [sorted(parts, key=_area, reverse=True) for parts in rings.values()]


def _cross_product(before: tuple[int, int], here: tuple[int, int], after: tuple[int, int]) -> int:
    """Positive for a right turn (y points down)."""
    a = here[0] - before[0], here[1] - before[1]
    b = after[0] - here[0], after[1] - here[1]
    return a[0] * b[1] - a[1] * b[0]


def _corners(ring: Ring) -> Ring:
    """A closed ring without the points on its straight segments."""
    points = ring[:-1]
    corners = [
        p
        for i, p in enumerate(points)
        if _cross_product(points[i - 1], p, points[(i + 1) % len(points)]) != 0
    ]
    return [*corners, corners[0]]


def _area(ring: Ring) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def _labels(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Regions of cells that share sides, numbered from 1."""
    labels = np.zeros(mask.shape, np.int64)
    count = 0
    for first in map(tuple, np.argwhere(mask).tolist()):
        if labels[first]:
            continue
        count += 1
        labels[first], stack = count, [first]
        while stack:
            row, col = stack.pop()
            for place in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and mask[place] and not labels[place]:
                    labels[place] = count
                    stack.append(place)
    return labels


class Frame:
    """Maps tiles to an image that covers a window of a level.

    Args:
        level: the image's finest level.
        window: x, y, w, h in px of that level.
    """

    def __init__(self, level: int, window: Window) -> None:
        self.level, self.window = level, window

    def __call__(self, x: float, y: float) -> list[float]:
        """Image coordinates of a tile corner (x, y), clamped to the image."""
        left, top, wide, high = self.window
        scale = TILE / (1 << self.level)
        return [min(max(x * scale - left, 0), wide), min(max(y * scale - top, 0), high)]

    def masked(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask without tiles outside the window."""
        scale = TILE / (1 << self.level)
        out = np.zeros_like(mask)
        x, y, w, h = (n / scale for n in self.window)
        rows = slice(int(y), -int(-(y + h) // 1))
        cols = slice(int(x), -int(-(x + w) // 1))
        out[rows, cols] = mask[rows, cols]
        return out


def tissue_features(mask: NDArray[np.bool_], frame: Frame) -> list[dict[str, Any]]:
    """An annotation for each region of tissue."""
    return [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[frame(x, y) for x, y in ring] for ring in rings],
            },
            "properties": {
                "objectType": "annotation",
                "classification": {"name": "Tissue", "color": list(_TISSUE)},
                "isLocked": True,
            },
        }
        for rings in outlines(frame.masked(mask))
    ]


def confidence_features(
    values: Iterable[tuple[int, int, float]], frame: Frame
) -> list[dict[str, Any]]:
    """A tile object for each tile, with its confidence as a measurement and as one of five classes.

    Args:
        values: row, column and cosine.
        frame: see `Frame`.
    """
    found = []
    for row, col, value in sorted(values):
        corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1), (col, row)]
        step = min(max(int(value * _STEPS), 0), _STEPS - 1)
        name = f"Confidence {step / _STEPS:g} to {(step + 1) / _STEPS:g}"
        found.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[frame(x, y) for x, y in corners]],
                },
                "properties": {
                    "objectType": "tile",
                    "classification": {"name": name, "color": list(_COLOURS[step])},
                    "measurements": {"Confidence": value},
                },
            }
        )
    return found


def write_features(
    path: Path, features: list[dict[str, Any]], provenance: Mapping[str, Any]
) -> None:
    """Write a FeatureCollection, with the provenance as a member that readers ignore."""
    whole = {"type": "FeatureCollection", "features": features, "zoomldm": dict(provenance)}
    with atomic_path(path) as part:
        part.write_text(json.dumps(whole, separators=(",", ":")) + "\n", encoding="utf-8")
