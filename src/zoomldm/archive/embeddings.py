"""Collection of embeddings for an archive: quantised on arrival, or all at once in a basis."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive.arrays import ArraySpec, whole_spec
from zoomldm.archive.compact import Compact, compact, restore
from zoomldm.archive.manifest import Quantisation
from zoomldm.archive.quantise import (
    COSINE_MIN,
    cosines,
    cost_of_int8,
    dequantise,
    quantise,
    to_float16,
)
from zoomldm.errors import ArchiveError

Precision = Literal["compact", "int8", "float16"]

TILE_CHUNK, COMPACT_CHUNK = 16, 32  # fewer numbers per tile compress better in larger chunks
COMPACT_BYTES = 1 << 29  # limit of exact embeddings in memory until the basis is known


class EmbeddingStore:
    """The quantised grid of one slide, in memory.

    Args:
        slide: the slide's name, for error messages.
        shape: rows, columns and D of the grid.
        precision: see `ArchiveWriter`.

    Attributes:
        mask: (rows, cols) bool, True where a tile was added.
        scales: (rows, cols) float32.
        basis: the tiles in their basis, once settled; None if none is used.
    """

    def __init__(self, slide: str, shape: tuple[int, int, int], precision: Precision) -> None:
        if precision not in ("compact", "int8", "float16"):
            raise ValueError(f"precision {precision!r} is not compact, int8 or float16")
        self.slide, self.shape = slide, shape
        self.precision: Precision = precision
        self._asked = precision
        self.mask = np.zeros(shape[:2], bool)
        self.scales = np.zeros(shape[:2], np.float32)
        self.basis: Compact | None = None
        self._chunks: dict[tuple[int, int], NDArray] = {}
        self._exact: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._exact_bytes = 0
        self._settled = False
        self._cosine_min = 1.0

    def add(self, tiles: NDArray[np.int64], exact: NDArray[np.float32]) -> None:
        """Add tiles (n, 2) of (row, col), each at most once, and their embeddings (n, D).

        Raises:
            ArchiveError: the precision can't store a tile within cosine 0.999.
        """
        rows, cols = tiles.T
        if self._settled or self.mask[rows, cols].any():
            raise ValueError("a tile was added before, or after the embeddings were counted")
        if len(np.unique(tiles, axis=0)) != len(tiles):
            raise ValueError("a tile was added before")
        if not len(tiles):
            return
        if self.precision == "compact":
            if not np.isfinite(exact).all():
                raise ArchiveError("an embedding holds NaN or infinity; expected finite numbers")
            self._exact.append((tiles, exact.copy()))
            self._exact_bytes += exact.nbytes
            if self._exact_bytes > COMPACT_BYTES:
                self._store_exact()
        else:
            self._store(tiles, exact)
        self.mask[rows, cols] = True

    def mark(self, mask: NDArray[np.bool_]) -> None:
        """Mark where tissue is, without embeddings."""
        if self._settled or self.mask.any():
            raise ValueError("tiles were added before")
        self.mask[:] = mask

    def _store_exact(self) -> None:
        """Give up the basis: store all tiles so far, and all that follow, as int8."""
        self.precision = "int8"
        for tiles, exact in self._exact:
            self._store(tiles, exact)
        self._exact.clear()

    def _store(self, tiles: NDArray[np.int64], exact: NDArray[np.float32]) -> None:
        rows, cols = tiles.T
        stored: NDArray
        if self.precision == "int8":
            stored, scales = quantise(exact)
            restored = dequantise(stored, scales)
            self.scales[rows, cols] = scales
        else:
            stored = to_float16(exact, f"{self.slide}: embeddings")
            restored = stored.astype(np.float32)
        cosine = cosines(exact, restored)
        worst = int(cosine.argmin())
        if cosine[worst] < COSINE_MIN:
            hint = "; use --precision float16" if self.precision == "int8" else ""
            raise ArchiveError(
                f"{self.slide}: tile (row {rows[worst]}, col {cols[worst]}) keeps "
                f"only cosine {cosine[worst]:.5f} in {self.precision}, expected {COSINE_MIN}{hint}"
            )
        self._cosine_min = min(self._cosine_min, float(cosine[worst]))
        self._place(tiles, stored, TILE_CHUNK)

    def _place(self, tiles: NDArray[np.int64], codes: NDArray, side: int) -> None:
        for (row, col), code in zip(tiles.tolist(), codes, strict=True):
            key = row // side, col // side
            if key not in self._chunks:
                self._chunks[key] = np.zeros((side, side, codes.shape[1]), codes.dtype)
            self._chunks[key][row % side, col % side] = code

    def settle(self) -> None:
        """Choose between a basis and int8 by size; nothing can be added afterwards."""
        if self._settled:
            return
        self._settled = True
        if not self._exact:
            return self._store_exact() if self.precision == "compact" else None
        tiles = np.concatenate([part for part, _ in self._exact])
        exact = np.concatenate([part for _, part in self._exact])
        order = np.lexsort(tiles.T[::-1])
        tiles, exact = tiles[order], exact[order]
        found = compact(exact)
        if found is None or found.cost >= cost_of_int8(exact):
            self._store_exact()
            return
        self._exact.clear()
        self.basis = found
        self.scales[tiles[:, 0], tiles[:, 1]] = found.scales
        self._place(tiles, found.codes, COMPACT_CHUNK)
        restored = restore(found.codes, found.scales, found.basis, found.steps)
        self._cosine_min = min(self._cosine_min, float(cosines(exact, restored).min()))

    def spec(self) -> ArraySpec:
        """The spec of the array `embeddings`; call after `settle`."""
        rows, cols, dim = self.shape
        depth = len(self.basis.basis) if self.basis else dim
        side = COMPACT_CHUNK if self.basis else TILE_CHUNK
        dtype = "float16" if self.precision == "float16" else "int8"
        shape, chunk = (rows, cols, depth), (side, side, depth)
        return ArraySpec("embeddings", dtype, shape, chunk, zstd=True)

    def chunks(self) -> Iterator[tuple[tuple[int, ...], NDArray]]:
        """Its chunks with their indices, in order."""
        return (((row, col, 0), self._chunks[row, col]) for row, col in sorted(self._chunks))

    def wholes(self) -> dict[str, NDArray]:
        """The accompanying arrays of one chunk each, by name."""
        out: dict[str, NDArray] = {}
        if self.precision != "float16":
            out["scales"] = self.scales
        if self.basis:
            out["basis"] = self.basis.basis
        return out

    def count_bytes(self) -> int:
        """Settle the store and return the bytes it takes in the file."""
        self.settle()
        spec = self.spec()
        return sum(len(spec.encode(chunk)) for _, chunk in self.chunks()) + sum(
            len(whole_spec(name, array).encode(array)) for name, array in self.wholes().items()
        )

    def quantisation(self) -> Quantisation:
        """The manifest's description of it; call after `settle`."""
        return Quantisation(
            precision=self.precision,
            cosine_min=round(self._cosine_min, 6),
            rank=len(self.basis.basis) if self.basis else 0,
            asked=self._asked if self._asked != self.precision else None,
        )
