"""Training images for the frozen networks: patches of slides, read once into a cache."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoomldm.errors import ConfigError, DamagedError
from zoomldm.files import atomic_path, claim
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import COUNT, NAMES, TILE
from zoomldm.geometry.withheld import is_withheld, withheld_block
from zoomldm.slides import Slide, SlideReadError, open_slide
from zoomldm.slides.content import content_digest
from zoomldm.slides.tissue import find_tissue
from zoomldm.verbs import Progress, silent

_log = logging.getLogger(__name__)

STRIDES = (256, 256, 128, 128, 64, 64, 64, 64)  # px, by level; each a whole number of tiles
MARGIN = 128  # px of white around a slide from 1.25x on, where it may be smaller than a patch
TISSUE = 0.05  # least fraction of a patch's tiles that have tissue
_VERSION = 1


def patch_starts(mask: np.ndarray, level: int, withheld_fraction: float = 0.1) -> np.ndarray:
    """Return where the training images of a level start: (n, 2) int, y and x in px of the level.

    Each has tissue on at least 5 % of its tiles, and lies outside the spatial hold-out region.

    Args:
        mask: bool (rows, cols), the tissue.
        level: 0 to 7.
        withheld_fraction: fraction of the tissue that is withheld; 0 for none.
    """
    block = withheld_block(mask, withheld_fraction) if withheld_fraction else np.zeros_like(mask)
    margin, stride = (MARGIN if level >= 4 else 0), STRIDES[level]
    height, width = (-(-n * TILE // 2**level) for n in mask.shape)
    y, x = np.meshgrid(
        *(np.arange(-margin, max(n - MARGIN, -margin + 1), stride) for n in (height, width)),
        indexing="ij",
    )
    y, x = y.ravel(), x.ravel()
    row, col = (v * 2**level // TILE for v in (y, x))
    tissue = tiles_within(mask, row, col, 2**level)
    fits = (tissue > 0) & (tissue >= TISSUE * 4**level)
    fits &= ~is_withheld(mask, block, level, row, col)
    return np.stack([y, x], 1)[fits]


def cache_tiles(
    slides: Sequence[Path],
    folder: Path,
    *,
    mpp: float | None = None,
    withheld_fraction: float = 0.1,
    progress: Progress = silent,
) -> None:
    """Read the training images of slides into `folder`, in the form that `SlidePatches` reads.

    A slide that is already there is skipped, so a killed run resumes with the next slide.
    The spatial hold-out region of every slide is left out, also of held-out ones. Images that
    can't be read are left out, counted in the JSON and logged.

    Args:
        slides: slide files with different names.
        folder: the cache; created if it is missing.
        mpp: micrometres per pixel of the slides, overriding their metadata.
        withheld_fraction: fraction of each slide's tissue that is withheld.
        progress: called as slides are read.

    Raises:
        SlideError: not a slide, no scale or no tissue.
        TargetError: the folder can't be written.
    """
    folder.mkdir(exist_ok=True)
    for number, path in enumerate(slides, 1):
        metadata = {
            "version": _VERSION,
            "content": content_digest(path),
            "mpp": mpp,
            "share": withheld_fraction,
        }
        done = folder / f"{path.name}.json"
        with claim(done):
            if not _is_cached(done, metadata):
                _log.info("slide %d/%d: reading %s", number, len(slides), path.name)
                with open_slide(path, mpp) as slide:
                    _cache_slide(slide, folder, withheld_fraction, metadata)
        progress("reading slides", number, len(slides))


def _is_cached(done: Path, metadata: dict) -> bool:
    try:
        found = json.loads(done.read_text())
    except (OSError, ValueError):
        return False
    return done.with_suffix(".npy").is_file() and all(
        found.get(k) == v for k, v in metadata.items()
    )


def _cache_slide(slide: Slide, folder: Path, withheld_fraction: float, metadata: dict) -> None:
    mask = find_tissue(slide).mask
    places = [
        (k, y, x)
        for k in range(COUNT)
        for y, x in patch_starts(mask, k, withheld_fraction).tolist()
    ]
    if not places:
        raise ConfigError(f"{slide.path}: has too little tissue for a training image; remove it")
    target = folder / f"{slide.path.name}.npy"
    rows: list[tuple[int, float, float]] = []
    lost = [0] * COUNT
    with atomic_path(target) as fresh:
        # The header needs the number of readable images, so it is written at the end.
        raw = fresh.with_suffix(".raw")
        try:
            with raw.open("wb") as file:
                for level, y, x in places:
                    try:
                        file.write(slide.read(level, x, y, TILE, TILE).tobytes())
                    except SlideReadError:
                        lost[level] += 1
                        continue
                    rows.append((level, y * 2**level / TILE, x * 2**level / TILE))
            header = {
                "descr": "|u1",
                "fortran_order": False,
                "shape": (len(rows), TILE, TILE, 3),
            }
            with fresh.open("wb") as file, raw.open("rb") as source:
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(source, file, 1 << 24)
        finally:
            raw.unlink(missing_ok=True)
    if any(lost):
        counts = ", ".join(f"{n} at {NAMES[k]}" for k, n in enumerate(lost) if n)
        _log.warning("%s: training patches left out, unreadable: %s", slide.path, counts)
    metadata = {**metadata, "unreadable": lost}
    with atomic_path(target.with_suffix(".json")) as fresh:
        fresh.write_text(json.dumps({**metadata, "rows": rows}))


class SlidePatches:
    """Patches of several slides: `NAME.npy` (n, 256, 256, 3) uint8 and `NAME.json` for each slide.

    The JSON holds `rows`, a list of (level, row, column): where a patch starts, in tiles.

    Args:
        folder: folder of the pairs.
        names: the slides to use.

    Raises:
        DamagedError: a pair that does not match.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.pixels = [np.load(folder / f"{n}.npy", mmap_mode="r") for n in names]
        rows = [json.loads((folder / f"{n}.json").read_text())["rows"] for n in names]
        for name, pixels, listed in zip(names, self.pixels, rows, strict=True):
            if len(pixels) != len(listed):
                raise DamagedError(
                    f"{folder / name}.npy: holds {len(pixels)} patches, its .json lists "
                    f"{len(listed)}; remove both"
                )
        self.slide = np.concatenate([np.full(len(r), i) for i, r in enumerate(rows)])
        self.index = np.concatenate([np.arange(len(r)) for r in rows])
        where = np.concatenate([np.asarray(r, float) for r in rows])
        self.level, self.start = where[:, 0].astype(int), where[:, 1:]

    @classmethod
    def none(cls) -> "SlidePatches":
        """An empty set: no patches of no slides."""
        patches = cls.__new__(cls)
        patches.pixels = []
        patches.slide = patches.index = patches.level = np.zeros(0, int)
        patches.start = np.zeros((0, 2))
        return patches

    def __len__(self) -> int:
        return len(self.slide)

    def read(self, i: int) -> np.ndarray:
        """Return patch i: (256, 256, 3) uint8."""
        return self.pixels[self.slide[i]][self.index[i]]

    def at_level(self, level: int) -> np.ndarray:
        """Indices of the patches of a level."""
        return np.nonzero(self.level == level)[0]

    def neighbours(self) -> np.ndarray:
        """For each patch, one that touches it on the same slide and level; itself if none does."""
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
