"""Reading an archive: every number returned was covered by a matching digest."""

import itertools
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoomldm.archive.arrays import ArraySpec, parse_spec
from zoomldm.archive.base import (
    NAME,
    BaseLayer,
    Pixels,
    check_metadata,
    chunk_name,
    chunk_tiles,
    decode_chunk,
    touches,
)
from zoomldm.archive.compact import restore
from zoomldm.archive.container import Container, Handle
from zoomldm.archive.image_codecs import decode_image
from zoomldm.archive.manifest import Manifest
from zoomldm.archive.quantise import dequantise
from zoomldm.caching import cached_chunk
from zoomldm.errors import ArchiveError
from zoomldm.geometry.levels import patch_tiles
from zoomldm.remote import RemotePath, as_path

_serial = itertools.count()
NO_EMBEDDINGS = "is an imaginary slide, which has no embeddings; take an archive of a real one"


class Archive:
    """A read-only archive. It may be pickled, forked and shared by threads; no file stays open.

    Each member is checked against its SHA-256 when it is first read. A read either returns the
    numbers that were written or raises DamagedError.

    Attributes:
        path: the file, or its URL.
        manifest: the archive's description of itself.
    """

    def __init__(self, path: Path | RemotePath | str) -> None:
        self.path = as_path(path)
        self._open: Container | None = Container(self.path)
        self.manifest: Manifest = self._open.manifest
        self._digest = self._open.digests.content
        self._file_bytes = self._open.file_bytes
        self._specs: dict[str, ArraySpec] = {}
        self._base_checked = False
        self._key = next(_serial)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_key": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._key = next(_serial)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further reads."""
        self._open = None

    @property
    def _container(self) -> Container:
        if self._open is None:
            raise ArchiveError(f"{self.path}: was closed; open it again")
        return self._open

    @property
    def rows(self) -> int:
        """Rows of the grid."""
        return self.manifest.grid.rows

    @property
    def cols(self) -> int:
        """Columns of the grid."""
        return self.manifest.grid.cols

    @property
    def dim(self) -> int:
        """D, the embedding dimension."""
        return self.manifest.encoder.dim

    @property
    def turn(self) -> int:
        """The slide's orientation (`geometry.orientation`), 0 if neither mirrored nor turned."""
        return self.manifest.slide.turn

    @property
    def size(self) -> tuple[int, int]:
        """Width and height (px) of the 0.5 mpp raster."""
        return self.manifest.slide.size

    @property
    def generated(self) -> bool:
        """Whether it is an imaginary slide, with neither real pixels nor embeddings."""
        return self.manifest.generated is not None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all members with their headers: the archive's identity."""
        return self._digest

    @property
    def file_bytes(self) -> int:
        """Size of the archive's file."""
        return self._file_bytes

    def _spec(
        self, handle: Handle, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]
    ) -> ArraySpec:
        if name not in self._specs:
            meta = f"{name}/zarr.json"
            if meta not in self._container:
                raise ArchiveError(f"{self.path}: member {meta} is missing")
            spec = parse_spec(handle.read(meta), name, dtypes, shape, self.path)
            self._specs[name] = spec
        return self._specs[name]

    def _chunk(self, handle: Handle, spec: ArraySpec, *index: int) -> NDArray:
        name = spec.chunk_name(*index)

        def load() -> NDArray:
            if name not in self._container:
                return np.zeros(spec.chunk, spec.numpy)
            return spec.decode(handle.read(name), f"{self.path}: member {name}")

        return cached_chunk((self._key, name), load)

    def _whole(self, handle: Handle, spec: ArraySpec) -> NDArray:
        counts = [range(-(-n // c)) for n, c in zip(spec.shape, spec.chunk, strict=True)]
        if all(len(count) == 1 for count in counts):
            full = self._chunk(handle, spec, *(0 for _ in counts))
            return full[tuple(slice(0, n) for n in spec.shape)]
        out = np.zeros(spec.shape, spec.numpy)
        for index in itertools.product(*counts):
            spans = tuple(
                slice(i * c, min((i + 1) * c, n))
                for i, c, n in zip(index, spec.chunk, spec.shape, strict=True)
            )
            part = self._chunk(handle, spec, *index)
            out[spans] = part[tuple(slice(0, s.stop - s.start) for s in spans)]
        return out

    def _mask_of(self, handle: Handle) -> NDArray[np.bool_]:
        return self._whole(handle, self._spec(handle, "mask", ("bool",), (self.rows, self.cols)))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(rows, cols) bool, True where the tile is tissue."""
        with self._container.open() as handle:
            return self._mask_of(handle).copy()

    def _background_of(self, handle: Handle) -> NDArray[np.float32]:
        return self._whole(handle, self._spec(handle, "background", ("float32",), (self.dim,)))

    @property
    def background(self) -> NDArray[np.float32]:
        """(D,): the embedding of a white tile."""
        with self._container.open() as handle:
            return self._background_of(handle).copy()

    def embeddings_of(self, rows: ArrayLike, cols: ArrayLike) -> NDArray[np.float32]:
        """Embeddings of single tiles.

        Args:
            rows: (n,) integers; tiles outside the grid are background.
            cols: (n,).

        Returns:
            (n, D) dequantised; the background's embedding where a tile is not tissue.
        """
        r, c = np.asarray(rows, np.int64).ravel(), np.asarray(cols, np.int64).ravel()
        if len(r) != len(c):
            raise ValueError(f"{len(r)} rows and {len(c)} columns")
        if self.generated:
            raise ArchiveError(f"{self.path}: {NO_EMBEDDINGS}")
        precision = self.manifest.quantisation.precision
        with self._container.open() as handle:
            mask = self._mask_of(handle)
            out = np.empty((len(r), self.dim), np.float32)
            out[:] = self._background_of(handle)
            inside = (r >= 0) & (r < self.rows) & (c >= 0) & (c < self.cols)
            places = np.flatnonzero(inside)
            places = places[mask[r[places], c[places]]]
            rank = self.manifest.quantisation.rank
            shape = (self.rows, self.cols, rank if precision == "compact" else self.dim)
            dtype = "float16" if precision == "float16" else "int8"
            spec = self._spec(handle, "embeddings", (dtype,), shape)
            height, width, depth = spec.chunk
            if depth != shape[2]:
                raise ArchiveError(f"{self.path}: embeddings are cut along D, expected whole")
            if precision == "compact":
                basis = self._whole(
                    handle, self._spec(handle, "basis", ("int8",), (rank, self.dim))
                )
                steps = self._whole(
                    handle, self._spec(handle, "basis_steps", ("float32",), (rank,))
                )
            if precision != "float16":
                scales = self._whole(handle, self._spec(handle, "scales", ("float32",), shape[:2]))
            keys = (r[places] // height) * -(-self.cols // width) + c[places] // width
            order = np.argsort(keys, kind="stable")
            places, keys = places[order], keys[order]
            for group in np.split(places, np.flatnonzero(np.diff(keys)) + 1):
                if not len(group):
                    continue
                gr, gc = r[group], c[group]
                index = int(gr[0]) // height, int(gc[0]) // width, 0
                if spec.chunk_name(*index) not in self._container:
                    raise ArchiveError(
                        f"{self.path}: member {spec.chunk_name(*index)} is missing for its tissue"
                    )
                chunk = self._chunk(handle, spec, *index)
                codes = chunk[gr % height, gc % width]
                if precision == "compact":
                    out[group] = restore(codes, scales[gr, gc], basis, steps)
                elif precision == "int8":
                    out[group] = dequantise(codes, scales[gr, gc])
                else:
                    out[group] = codes
        return out

    def embeddings(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[np.float32]:
        """Embeddings of a block of tiles, (row1 - row0, col1 - col0, D); see `embeddings_of`."""
        height, width = max(0, row1 - row0), max(0, col1 - col0)
        rows, cols = np.mgrid[row0 : row0 + height, col0 : col0 + width]
        return self.embeddings_of(rows, cols).reshape(height, width, self.dim)

    def grid(self, level: int, row: int, col: int) -> NDArray[np.float32]:
        """(2^level, 2^level, D): the grid of the patch with first tile (row, col).

        Any offset is allowed, including negative ones; see `embeddings_of`.
        """
        side = patch_tiles(level)
        return self.embeddings(row, row + side, col, col + side)

    def overview_bytes(self) -> bytes | None:
        """The JPEG file stored as overview in versions 1.0 and 1.1, None if there is none.

        Raises:
            ArchiveError: it is not a JPEG.
        """
        overview = self.manifest.overview
        if overview is None:
            return None
        if overview.codec != "jpeg":
            raise ArchiveError(
                f"{self.path}: its overview is coded as {overview.codec!r}, expected jpeg; "
                "update zoomldm"
            )
        with self._container.open() as handle:
            shape = (self._container.size_of("overview/c/0"),)
            spec = self._spec(handle, "overview", ("uint8",), shape)
            if spec.zstd or spec.chunk != shape:
                raise ArchiveError(f"{self.path}: its overview is not one whole, plain chunk")
            return handle.read("overview/c/0")

    def _overview_pixels(self, *_: int) -> Pixels:
        """The whole overview image of versions 1.0 and 1.1."""
        overview = self.manifest.overview
        assert overview is not None

        def load() -> Pixels:
            data, shape = self.overview_bytes(), (overview.height, overview.width, 3)
            assert data is not None
            return decode_image(data, "jpeg", shape, f"{self.path}: its overview")

        return cached_chunk((self._key, "overview/c/0"), load)

    def _base_chunk(self, row: int, col: int) -> Pixels | None:
        """Chunk (row, col) of the base layer, None if it is not stored."""
        base = self.manifest.base
        assert base is not None
        name, meta = chunk_name(row, col), f"{NAME}/zarr.json"
        with self._container.open() as handle:
            if name not in self._container:
                if touches(self._mask_of(handle), chunk_tiles(base, row, col)):
                    raise ArchiveError(f"{self.path}: member {name} is missing for its tissue")
                return None

            def load() -> Pixels:
                if not self._base_checked:
                    if meta not in self._container:
                        raise ArchiveError(f"{self.path}: member {meta} is missing")
                    check_metadata(handle.read(meta), base, self.path)
                    self._base_checked = True
                return decode_chunk(handle.read(name), base, f"{self.path}: member {name}")

            return cached_chunk((self._key, name), load)

    def base_file(self, row: int, col: int) -> bytes | None:
        """The image file of chunk (row, col) of the base layer, None if it is not stored."""
        name = chunk_name(row, col)
        if self.manifest.base is None or name not in self._container:
            return None
        with self._container.open() as handle:
            return handle.read(name)

    @property
    def base(self) -> BaseLayer | None:
        """The base layer, None if there is none.

        In an archive of version 1.0 or 1.1 it is the overview, a single chunk.
        """
        base, old = self.manifest.base, self.manifest.overview
        if base is not None:
            size, chunk = (base.width, base.height), (base.chunk, base.chunk)
            settings = base.level, base.codec, base.quality
            return BaseLayer(*settings, size, chunk, self._base_chunk, base.background)
        if old is not None:
            size = old.width, old.height
            return BaseLayer(old.level, old.codec, old.quality, size, size, self._overview_pixels)
        return None

    def overview(self) -> tuple[int, NDArray[np.uint8]] | None:
        """Level and image, (H, W, 3) uint8 sRGB, of the whole slide, None if none is stored.

        A base layer of over 2048 px a side is averaged down, at most to the coarsest level.

        Raises:
            ArchiveError: it can't be decoded, or does not have its declared size.
        """
        overview, base = self.manifest.overview, self.base
        if overview is not None:
            return overview.level, self._overview_pixels().copy()
        return base.overview() if base else None

    @property
    def latent_levels(self) -> list[int]:
        """Levels with stored latents, finest first."""
        return sorted(part.level for part in self.manifest.latents)

    def _latent_shape(self, level: int) -> tuple[int, int, int, int]:
        for part in self.manifest.latents:
            if part.level == level:
                return part.count, part.channels, part.height, part.width
        raise ArchiveError(
            f"{self.path}: holds no latents of level {level}, only of {self.latent_levels}; "
            "compress with --for-training"
        )

    def offsets(self, level: int) -> NDArray[np.int32]:
        """(n, 2): (row, col) of each stored patch's first tile; may be negative."""
        count = self._latent_shape(level)[0]
        with self._container.open() as handle:
            spec = self._spec(handle, f"offsets/{level}", ("int32",), (count, 2))
            return self._whole(handle, spec).copy()

    def latents(self, level: int, indices: ArrayLike) -> NDArray[np.float16]:
        """Latents (m, C, h, w) float16 of the stored patches `indices` (m,), each in 0..n-1."""
        shape = self._latent_shape(level)
        wanted = np.asarray(indices, np.int64).ravel()
        if ((wanted < 0) | (wanted >= shape[0])).any():
            raise IndexError(f"a patch index is not in 0..{shape[0] - 1}")
        out = np.empty((len(wanted), *shape[1:]), np.float16)
        with self._container.open() as handle:
            spec = self._spec(handle, f"latents/{level}", ("float16",), shape)
            if spec.chunk[1:] != shape[1:] or spec.zstd:
                raise ArchiveError(f"{self.path}: latents of level {level} are not whole and plain")
            step, length = spec.chunk[0], spec.chunk_bytes // spec.chunk[0]
            for place, index in enumerate(wanted.tolist()):
                name = spec.chunk_name(index // step, 0, 0, 0)
                if self._container.size_of(name) != spec.chunk_bytes:
                    raise ArchiveError(f"{self.path}: member {name} does not hold one chunk")
                data = handle.read_part(name, index % step * length, length)
                out[place] = np.frombuffer(data, spec.numpy).reshape(shape[1:])
        return out


def open_archive(path: Path | RemotePath | str) -> Archive:
    """Open an archive for reading, from a path or a URL (`zoomldm.remote`).

    For an archive behind a URL, only the parts that are read are fetched.

    Checks the digests of the zip directory and of the manifest, and that the members are exactly
    those listed in the manifest; the members themselves are checked when they are read.

    Raises:
        ArchiveError: not an archive, of a newer format version, or malformed.
        DamagedError: truncated, or bytes differ from their digest.

    Examples:
        >>> import zoomldm
        >>> with zoomldm.open_archive("slide.zldm") as archive:
        ...     archive.size, archive.mask.shape, archive.grid(level=2, row=0, col=0).shape
        ((1000, 800), (4, 4), (4, 4, 32))
    """
    return Archive(path)
