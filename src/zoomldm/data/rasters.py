"""Slides as training data for octaves: a lossless 2 mpp raster and a grid of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.archive.base import halve
from zoomldm.errors import ArchiveError
from zoomldm.files import atomic_path
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.geometry.withheld import withheld_block

STORED = 2  # level of the raster; latents of level k are pixels of level k + 2
SIDE = 64  # side of a patch of level k in pixels of level k + 2
TOKEN = 8  # side of a context token in the same pixels
MARGIN = 32  # pixels around a window that a codec also sees
FINE = 3  # at finer levels a patch may start inside a tile, at any token


@dataclass(frozen=True)
class Raster:
    """One slide under one orientation.

    Attributes:
        pixels: for each level k the image two octaves coarser, from (rows 64, cols 64, 3) uint8
            sRGB at 2 mpp down, each averaged from the one before; white outside the slide.
        embeddings: (rows, cols, D), any float type.
        background: (D,), embedding of a white tile.
        mask: (rows, cols) bool, tissue.
        withheld: (rows, cols) bool, tissue withheld from training.
    """

    pixels: tuple[NDArray[np.uint8], ...]
    embeddings: NDArray[np.float16]
    background: NDArray[np.float16]
    mask: NDArray[np.bool_]
    withheld: NDArray[np.bool_]


@dataclass(frozen=True)
class Windows:
    """A batch of windows of one level.

    Attributes:
        level: 0..7.
        pixels: (n, 64, 64, 3) uint8 of level + 2.
        around: (n, 128, 128, 3) the same with a margin of 32 px.
        grids: (n, s, s, D), s tiles a side, plus one if `shifts` is given.
        shifts: (n, 2) tokens by which each starts inside its first tile; None at 2.5x and coarser.
    """

    level: int
    pixels: NDArray[np.uint8]
    around: NDArray[np.uint8]
    grids: NDArray[np.float16]
    shifts: NDArray[np.int64] | None


def cut(values: NDArray, top: int, left: int, height: int, width: int, fill: object) -> NDArray:
    """Cut a window from an array (R, C, ...), with `fill` where it lies outside."""
    out = np.empty((height, width, *values.shape[2:]), values.dtype)
    out[:] = fill
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, values.shape[0]), min(left + width, values.shape[1])
    if y0 < y1 and x0 < x1:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = values[y0:y1, x0:x1]
    return out


def tiles_of(level: int, pixels: int) -> int:
    """Tile in which a pixel of level + 2 lies."""
    return (pixels << level) // SIDE


def coarser(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    """An image and its averages one to seven octaves coarser."""
    out = [pixels]
    for _ in range(COUNT - 1):
        out.append(halved(out[-1]))
    return tuple(out)


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average over 2 x 2, rounded; an odd edge is first padded with white."""
    h, w = pixels.shape[:2]
    return halve(np.pad(pixels, ((0, h % 2), (0, w % 2), (0, 0)), constant_values=255), 1)


def load_raster(archive: Archive, folder: Path, withheld_fraction: float = 0.1) -> Raster:
    """Return the raster of an archive, unpacked once into files that are memory-mapped.

    Args:
        archive: has a lossless base layer at 5x (`compress --for-training`).
        folder: existing folder for the unpacked arrays, named by the archive's digest.
        withheld_fraction: fraction of the tissue that is withheld.

    Raises:
        ArchiveError: its base layer is of another level or lossy, or there is none.
    """
    base = archive.base
    if base is None or base.level != STORED or base.quality is not None:
        found = "no base layer" if base is None else f"{NAMES[base.level]}, {base.codec}"
        raise ArchiveError(
            f"{archive.path}: base layer: {found}; training needs a lossless one at "
            f"{NAMES[STORED]}: compress its slide again with --for-training"
        )
    stem = folder / archive.digest[:32]
    done = stem.with_suffix(".embeddings.npy")
    if not done.is_file():
        rows, cols = archive.rows, archive.cols
        for level, pixels in enumerate(coarser(base.read(0, 0, cols * SIDE, rows * SIDE))):
            _save(stem.with_suffix(f".{level}.npy"), pixels)
        _save(done, archive.embeddings(0, rows, 0, cols).astype(np.float16))
    mask = archive.mask
    return Raster(
        tuple(np.load(stem.with_suffix(f".{k}.npy"), mmap_mode="r") for k in range(COUNT)),
        np.load(done, mmap_mode="r"),
        archive.background.astype(np.float16),
        mask,
        withheld_block(mask, withheld_fraction, archive.turn)
        if withheld_fraction
        else np.zeros_like(mask),
    )


def _save(path: Path, values: NDArray) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, values)


class RasterPatches:
    """Windows at every level of several rasters, drawn at random.

    A window starts at any token inside a tile at levels finer than 2.5x, and at any tile from
    2.5x on, also partly outside the slide. Windows whose tissue is mostly withheld belong
    to the withheld set; finer than 2.5x, others with any withheld tissue belong to neither.

    Args:
        rasters: the slides.
        withheld: whether to draw from the withheld set rather than from the rest.
        least: least fraction of a window's tiles that must be tissue, finer than 2.5x; any tissue
            is enough at coarser levels.
    """

    def __init__(
        self, rasters: Sequence[Raster], withheld: bool = False, least: float = 0.2
    ) -> None:
        self.rasters, self.withheld, self.least = list(rasters), withheld, least
        self.dim = rasters[0].embeddings.shape[-1]
        self._tissue = [np.argwhere(r.withheld if withheld else r.mask) for r in rasters]
        self._tissue_counts = np.array([len(t) for t in self._tissue], float)

    def draw(
        self, rng: np.random.Generator, level: int, count: int, whole: bool = False
    ) -> Windows:
        """Draw `count` windows of a level; with `whole` only those that start where a tile does.

        At fine levels slides are drawn in proportion to their tissue, at coarse ones to its square
        root, since a patch there covers much of a slide.
        """
        weight = self._tissue_counts ** (1.0 if level < FINE else 0.5)
        picked = rng.choice(len(weight), size=count, p=weight / weight.sum())
        places = [(int(i), *self._place(rng, int(i), level, whole)) for i in picked]
        return self.windows(level, places)

    def tiles(self, count: int) -> Windows:
        """Up to `count` whole tiles at 20x, spread over withheld tissue, or all if none is."""
        where = [
            (number, int(row) * SIDE, int(col) * SIDE)
            for number, raster in enumerate(self.rasters)
            for row, col in np.argwhere(raster.withheld if raster.withheld.any() else raster.mask)
        ]
        chosen = np.linspace(0, len(where) - 1, min(count, len(where))).astype(int)
        return self.windows(0, [where[i] for i in chosen])

    def _place(
        self, rng: np.random.Generator, number: int, level: int, whole: bool = False
    ) -> tuple[int, int]:
        """Top and left of a window, in pixels of level + 2."""
        tile = max(SIDE >> level, 1)
        step = tile if whole or level >= FINE else TOKEN
        raster, tissue = self.rasters[number], self._tissue[number]
        top = left = 0
        for _ in range(50):
            # A window that covers some pixel of a tile with tissue.
            row, col = tissue[rng.integers(len(tissue))] * SIDE >> level
            top, left = (
                int(-(-(start - rng.integers(SIDE)) // step) * step) for start in (row, col)
            )
            if self._fits(raster, level, top, left):
                break
        return top, left

    def _fits(self, raster: Raster, level: int, top: int, left: int) -> bool:
        row, col = tiles_of(level, top), tiles_of(level, left)
        high = -(-((top + SIDE) << level) // SIDE) - row
        wide = -(-((left + SIDE) << level) // SIDE) - col
        mask = cut(raster.mask, row, col, high, wide, False)
        withheld = cut(raster.withheld, row, col, high, wide, False)
        if not mask.any() or (level < FINE and mask.mean() < self.least):
            return False
        if self.withheld:
            return bool(withheld.sum() * 2 > mask.sum())
        return not withheld.any() if level < FINE else bool(withheld.sum() * 2 <= mask.sum())

    def windows(self, level: int, places: Sequence[tuple[int, int, int]]) -> Windows:
        """Windows at places (raster, top, left), in pixels of level + 2."""
        side, extra = 1 << level, int(level < FINE)
        pixels, around, grids, shifts = [], [], [], []
        for number, top, left in places:
            raster = self.rasters[number]
            coarse = raster.pixels[level]
            size = SIDE + 2 * MARGIN
            wide = cut(coarse, top - MARGIN, left - MARGIN, size, size, 255)
            around.append(wide)
            pixels.append(wide[MARGIN:-MARGIN, MARGIN:-MARGIN])
            row, col = tiles_of(level, top), tiles_of(level, left)
            grids.append(
                cut(raster.embeddings, row, col, side + extra, side + extra, raster.background)
            )
            tile = SIDE >> level
            shifts.append(((top - row * tile) // TOKEN, (left - col * tile) // TOKEN))
        return Windows(
            level,
            np.stack(pixels),
            np.stack(around),
            np.stack(grids),
            np.array(shifts, np.int64) if level < FINE else None,
        )


def load_patches(
    run: Path, archives: Sequence[Archive], held_out_archives: Sequence[Archive]
) -> tuple[RasterPatches, RasterPatches | None]:
    """Return windows to train on, and windows of held-out cases; rasters go into the run's folder.

    Args:
        run: exists; unpacked arrays go into its folder `rasters`.
        archives: archives of training cases, see `load_raster`.
        held_out_archives: archives of held-out cases.
    """
    folder = run / "rasters"
    folder.mkdir(exist_ok=True)
    patches = RasterPatches([load_raster(one, folder) for one in archives])
    held_out = [load_raster(one, folder, withheld_fraction=0) for one in held_out_archives]
    return patches, RasterPatches(held_out) if held_out else None
