"""Training patches: views on the grids and latents of archives made with --for-training."""

from collections.abc import Sequence

import numpy as np

from zoomldm.archive import Archive
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.geometry.lattice import cut_square, tiles_within
from zoomldm.geometry.levels import COUNT, patch_tiles
from zoomldm.geometry.withheld import is_withheld, withheld_block

MEMORY = 4 << 30  # bytes up to which everything is held in memory
FIELDS = 4  # fields of a patch: archive, index of its latents, row and column of its first tile


class ArchivePatches:
    """Patches of several archives, by level.

    Attributes:
        patches: per level (n, 4) int: archive, index of its latents, row, column.
        withheld: the same for patches in the spatial hold-out regions.

    Args:
        archives: opened archives that hold latents.
        withheld_fraction: fraction of each archive's tissue that is withheld; 0 for none.
        levels: number of levels to use, from 20x on; those that a pipeline knows.
        memory: bytes up to which embeddings and latents are held in memory; beyond it they are
            read from the archives whenever they are needed.

    Raises:
        ArchiveError: an archive without latents.
        ConfigError: archives of different networks.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        withheld_fraction: float = 0.1,
        memory: int = MEMORY,
        levels: int = COUNT,
    ) -> None:
        self.archives = list(archives)
        shapes = {a.path: self._shape(a) for a in self.archives}
        if len(set(shapes.values())) > 1:
            raise ConfigError(f"archives differ in embeddings or latents: {_first_two(shapes)}")
        self.dim, *self.latent_shape = next(iter(shapes.values()))
        patches: list[list[np.ndarray]] = [[] for _ in range(COUNT)]
        withheld: list[list[np.ndarray]] = [[] for _ in range(COUNT)]
        for number, archive in enumerate(self.archives):
            mask = archive.mask
            block = (
                withheld_block(mask, withheld_fraction, archive.turn)
                if withheld_fraction
                else np.zeros_like(mask)
            )
            for level in [k for k in archive.latent_levels if k < levels]:
                starts = archive.offsets(level).astype(np.int64)
                rows = np.empty((len(starts), FIELDS), np.int64)
                rows[:, 0], rows[:, 1], rows[:, 2:] = number, np.arange(len(starts)), starts
                out = is_withheld(mask, block, level, starts[:, 0], starts[:, 1])
                patches[level].append(rows[~out])
                withheld[level].append(rows[out])
        none = np.empty((0, FIELDS), np.int64)
        self.patches = [np.concatenate([none, *p]) for p in patches]
        self.withheld = [np.concatenate([none, *p]) for p in withheld]
        self._latents: dict[tuple[int, int], np.ndarray] = {}
        self._embeddings: list[np.ndarray] = []
        self._backgrounds = [a.background.astype(np.float16) for a in self.archives]
        if self._bytes() <= memory:
            self._load()

    @staticmethod
    def _shape(archive: Archive) -> tuple[int, ...]:
        stored = archive.manifest.latents
        if not stored:
            raise ArchiveError(
                f"{archive.path}: holds no latents; compress its slide with --for-training"
            )
        return archive.dim, stored[0].channels, stored[0].height, stored[0].width

    def _bytes(self) -> int:
        latents = sum(p.count for a in self.archives for p in a.manifest.latents)
        cells = sum(a.rows * a.cols for a in self.archives)
        return 2 * (latents * int(np.prod(self.latent_shape)) + cells * self.dim)

    def _load(self) -> None:
        for number, archive in enumerate(self.archives):
            whole = archive.embeddings(0, archive.rows, 0, archive.cols)
            self._embeddings.append(whole.astype(np.float16))
            for part in archive.manifest.latents:
                everything = archive.latents(part.level, np.arange(part.count))
                self._latents[number, part.level] = everything

    @property
    def levels(self) -> list[int]:
        """Levels that have patches, finest first."""
        return [k for k in range(COUNT) if len(self.patches[k])]

    def fullest(self, level: int, count: int) -> np.ndarray:
        """Up to `count` patches (m, 4) spread over a level's quarter with most tissue."""
        patches = self.patches[level]
        tissue = np.zeros(len(patches), np.int64)
        for number, archive in enumerate(self.archives):
            own = patches[:, 0] == number
            rows, cols = patches[own, 2], patches[own, 3]
            tissue[own] = tiles_within(archive.mask, rows, cols, patch_tiles(level))
        most = np.sort(np.argsort(-tissue, kind="stable")[: max(count, len(patches) // 4)])
        return patches[most[np.linspace(0, len(most) - 1, min(count, len(most))).astype(int)]]

    def latents(self, level: int, patches: np.ndarray) -> np.ndarray:
        """Latents (m, C, h, w) float32 of `patches` (m, 4)."""
        out = np.empty((len(patches), *self.latent_shape), np.float32)
        for place, (number, index, _, _) in enumerate(patches.tolist()):
            held = self._latents.get((number, level))
            out[place] = (
                self.archives[number].latents(level, [index])[0] if held is None else held[index]
            )
        return out

    def grids(self, level: int, patches: np.ndarray) -> np.ndarray:
        """Grids (m, 2**level, 2**level, D) float16, dequantised, of `patches` (m, 4)."""
        side = patch_tiles(level)
        out = np.empty((len(patches), side, side, self.dim), np.float16)
        for place, (number, _, row, col) in enumerate(patches.tolist()):
            archive = self.archives[number]
            if not self._embeddings:
                out[place] = archive.grid(level, row, col)
                continue
            cut_square(self._embeddings[number], row, col, self._backgrounds[number], out[place])
        return out


def _first_two(shapes: dict) -> str:
    seen: dict = {}
    for path, shape in shapes.items():
        seen.setdefault(shape, path)
    (a, p), (b, q), *_ = seen.items()
    return f"{p} has {a}, {q} has {b} (D, C, h, w); make all with one pipeline"
