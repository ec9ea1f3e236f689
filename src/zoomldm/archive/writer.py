"""Writing an archive tile by tile and patch by patch; the file is complete or absent."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from zoomldm.archive.arrays import ArraySpec, whole_spec
from zoomldm.archive.base import CHUNK, NAME, base_metadata, chunk_name, stored_chunks
from zoomldm.archive.container import ContainerWriter
from zoomldm.archive.embeddings import EmbeddingStore, Precision
from zoomldm.archive.image_codecs import encode_image, fill_chunk, resolve_quality
from zoomldm.archive.latents import LATENT_CHUNK, LatentLevel
from zoomldm.archive.manifest import (
    FORMAT,
    MAX_TILES,
    Base,
    Grid,
    Header,
    Latents,
    Manifest,
    Overview,
    dump_json,
    dump_manifest,
)
from zoomldm.archive.quantise import to_float16
from zoomldm.errors import ArchiveError
from zoomldm.geometry.levels import COARSEST, NAMES, grid_shape, level_size


class ArchiveWriter:
    """Writes one archive; a context manager.

    The file appears under its name, flushed, when the block ends without an exception; otherwise
    nothing is left behind. The mask is True where `add_embeddings` stored a tile. Quantised
    embeddings stay in memory; latents are written to the file as they arrive. The same calls with
    the same data give the same bytes; the order of tiles does not matter, that of latents does.

    Args:
        path: the target.
        header: what is known in advance about slide, tissue and networks.
        background: (D,) float32, the encoder's output for a white tile.
        precision: `int8` with one scale per tile; `compact`, in a basis computed for the slide if
            that takes fewer bytes, else `int8`; or `float16`.

    Raises:
        TargetError: the target can't be written.
        ArchiveError: numbers that the precision can't store, or a raster too large for the format.
    """

    def __init__(
        self,
        path: Path | str,
        header: Header,
        background: ArrayLike,
        precision: Precision = "int8",
    ) -> None:
        self.path = Path(path)
        self.header = header
        self.rows, self.cols = grid_shape(*header.slide.size)
        if self.rows * self.cols > MAX_TILES:
            raise ArchiveError(
                f"{header.slide.name}: a grid of {self.rows} x {self.cols} tiles is over the "
                f"limit of {MAX_TILES}"
            )
        self._background = np.array(background, np.float32)
        if self._background.shape != (header.encoder.dim,):
            raise ValueError(
                f"background has shape {self._background.shape}, expected ({header.encoder.dim},)"
            )
        if not np.isfinite(self._background).all():
            raise ArchiveError(f"{self.path}: the background embedding holds NaN or infinity")
        shape = self.rows, self.cols, header.encoder.dim
        self._embeddings = EmbeddingStore(header.slide.name, shape, precision)
        self._unreadable: set[tuple[int, int]] = set()
        self._overview: tuple[Overview, bytes] | None = None
        self._base: Base | None = None
        self._base_chunks: set[tuple[int, int]] = set()
        self._latents: dict[int, LatentLevel] = {}
        self._container = ContainerWriter(self.path)

    def __enter__(self) -> Self:
        self._container.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._container.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._container.__exit__(kind, error, trace)

    def _tiles(self, positions: ArrayLike) -> NDArray[np.int64]:
        tiles = np.asarray(positions, np.int64).reshape(-1, 2)
        if ((tiles < 0) | (tiles >= (self.rows, self.cols))).any():
            raise ValueError(f"a tile lies outside the grid of {self.rows} x {self.cols}")
        return tiles

    def add_embeddings(self, positions: ArrayLike, values: ArrayLike) -> None:
        """Store tiles.

        Args:
            positions: (n, 2) of (row, col), each tile at most once.
            values: (n, D) float32, the encoder's raw output.

        Raises:
            ArchiveError: the precision can't store a tile within cosine 0.999.
        """
        tiles = self._tiles(positions)
        exact = np.asarray(values, np.float32)
        if exact.shape != (len(tiles), self.header.encoder.dim):
            raise ValueError(
                f"values have shape {exact.shape}, expected "
                f"({len(tiles)}, {self.header.encoder.dim})"
            )
        self._embeddings.add(tiles, exact)

    def mark_tissue(self, mask: ArrayLike) -> None:
        """Mark where an imaginary slide has tissue, (rows, cols) bool; it has no embeddings."""
        if self.header.generated is None:
            raise ValueError("only an imaginary slide has tissue without embeddings")
        self._embeddings.mark(np.asarray(mask, bool))

    def embedding_bytes(self) -> int:
        """Bytes that the embeddings take in the file; call it after all are added."""
        return self._embeddings.count_bytes()

    def add_unreadable(self, positions: ArrayLike) -> None:
        """List unreadable tissue tiles, (n, 2) of (row, col), which become background."""
        self._unreadable.update((int(r), int(c)) for r, c in self._tiles(positions))

    def set_overview(self, level: int, pixels: ArrayLike, quality: int = 75) -> None:
        """Store the whole slide at `level` as a JPEG (4:2:0).

        Args:
            level: 0..7.
            pixels: (H, W, 3) uint8 sRGB, exactly the level's size.
            quality: JPEG quality, 1..95.

        Raises:
            ArchiveError: a side is over 65,535 px, the limit of JPEG.
        """
        image = np.asarray(pixels)
        width, height = level_size(*self.header.slide.size, level)
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"overview is {image.dtype} {image.shape}, expected uint8 ({height}, {width}, 3)"
            )
        if max(width, height) > 65535:
            raise ArchiveError(
                f"{self.header.slide.name}: an overview of {width} x {height} px is over JPEG's "
                f"limit of 65535; use a coarser level than {NAMES[level]}"
            )
        buffer = io.BytesIO()
        Image.fromarray(image).save(
            buffer, "JPEG", quality=quality, subsampling=2, optimize=True, progressive=True
        )
        overview = Overview(level=level, codec="jpeg", quality=quality, width=width, height=height)
        self._overview = overview, buffer.getvalue()

    def start_base(
        self,
        level: int,
        codec: str = "avif",
        quality: int | None = None,
        chunk: int = CHUNK,
        ratio: float | None = None,
    ) -> Base:
        """Declare the archive's base layer; `add_base_chunk` then adds its images.

        Args:
            level: 0..7.
            codec: `avif`, `jpegxl`, `webp`, `jpeg` or `png`.
            quality: 1..100; None takes the codec's default.
            chunk: side of a chunk in px.
            ratio: the ratio that the quality was chosen for; see `Base`.

        Raises:
            ConfigError: the codec does not exist or is not installed, or quality is out of range.
        """
        if self._base or self._overview:
            raise ValueError("the archive has a base layer or an overview already")
        width, height = level_size(*self.header.slide.size, level)
        resolved = resolve_quality(codec, quality)
        self._base = Base(
            level=level,
            codec=codec,
            quality=resolved,
            width=width,
            height=height,
            chunk=chunk,
            ratio=ratio,
        )
        return self._base

    def add_base_chunk(self, row: int, col: int, data: bytes) -> None:
        """Append chunk (row, col) of the base layer, an image file, to the archive.

        Add the chunks from `stored_chunks`; every chunk that tissue overlaps is required.
        """
        if self._base is None or (row, col) in self._base_chunks:
            raise ValueError(f"chunk ({row}, {col}) was added before, or before the base layer")
        self._base_chunks.add((row, col))
        self._container.add(chunk_name(row, col), data)

    def set_base_background(self, colour: tuple[int, int, int]) -> None:
        """Set the base layer's RGB where no chunk is stored, instead of white."""
        if self._base is None:
            raise ValueError("the archive has no base layer yet")
        self._base = self._base.model_copy(update={"background": colour})

    def add_base(
        self,
        level: int,
        pixels: ArrayLike,
        codec: str = "avif",
        quality: int | None = None,
        chunk: int = CHUNK,
    ) -> None:
        """Store a base layer from the whole slide's pixels; add the tiles first.

        Args:
            level: 0..7.
            pixels: (H, W, 3) uint8 sRGB, exactly the level's size.
            codec: as in `start_base`.
            quality: as in `start_base`.
            chunk: as in `start_base`.
        """
        image = np.asarray(pixels)
        width, height = level_size(*self.header.slide.size, level)
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"base layer is {image.dtype} {image.shape}, expected uint8 ({height}, {width}, 3)"
            )
        base = self.start_base(level, codec, quality, chunk)
        for row, col in stored_chunks(base, self._embeddings.mask):
            part = image[row * chunk : (row + 1) * chunk, col * chunk : (col + 1) * chunk]
            self.add_base_chunk(row, col, encode_image(fill_chunk(part, chunk), codec, quality))

    def add_latents(self, level: int, offsets: ArrayLike, values: ArrayLike) -> None:
        """Append latents of patches of one level to the file.

        Args:
            level: 0..7.
            offsets: (n, 2) of (row, col) of each patch's first tile; may be negative.
            values: (n, C, h, w), as the autoencoder returns them; stored as float16.

        Raises:
            ArchiveError: a number that float16 can't hold.
        """
        if not 0 <= level <= COARSEST:
            raise ValueError(f"level {level} is not in 0..{COARSEST}")
        places = np.asarray(offsets, np.int32).reshape(-1, 2)
        half = to_float16(np.asarray(values), f"{self.header.slide.name}: latents")
        if half.ndim != 4 or len(half) != len(places):
            raise ValueError(f"latents have shape {half.shape} for {len(places)} offsets")
        if not len(half):
            return
        shape = (int(half.shape[1]), int(half.shape[2]), int(half.shape[3]))
        state = self._latents.setdefault(level, LatentLevel(level, shape))
        if state.shape != shape:
            raise ValueError(f"latents have shape {shape}, before it was {state.shape}")
        state.offsets.append(places)
        for patch in half:
            state.pending.append(patch)
            if len(state.pending) == LATENT_CHUNK:
                state.flush(self._container)

    def _add_array(
        self, spec: ArraySpec, chunks: Iterable[tuple[tuple[int, ...], NDArray]]
    ) -> None:
        for index, chunk in chunks:
            self._container.add(spec.chunk_name(*index), spec.encode(chunk))
        self._container.add(spec.meta_name, spec.metadata())

    def _add_whole(self, name: str, array: NDArray, zstd: bool = True) -> None:
        spec = whole_spec(name, array, zstd)
        self._add_array(spec, [((0,) * array.ndim, array)])

    def _finish_latents(self) -> list[Latents]:
        latents = []
        group = dump_json({"zarr_format": 3, "node_type": "group", "attributes": {}})
        for name in ("latents", "offsets") if self._latents else ():
            self._container.add(f"{name}/zarr.json", group)
        for level in sorted(self._latents):
            state = self._latents[level]
            spec = state.spec()
            if state.pending:
                state.flush(self._container)
            self._add_array(spec, [])
            self._add_whole(f"offsets/{level}", np.concatenate(state.offsets))
            channels, height, width = state.shape
            count = spec.shape[0]
            latents.append(
                Latents(level=level, count=count, channels=channels, height=height, width=width)
            )
        return latents

    def _finish(self) -> None:
        latents = self._finish_latents()
        stored = self._embeddings
        stored.settle()
        self._add_array(stored.spec(), stored.chunks())
        for name, array in stored.wholes().items():
            self._add_whole(name, array)
        if stored.basis:
            self._add_whole("basis_steps", stored.basis.steps, zstd=False)
        self._add_whole("mask", stored.mask)
        self._add_whole("background", self._background, zstd=False)
        if self._overview:
            jpeg = np.frombuffer(self._overview[1], np.uint8)
            self._add_whole("overview", jpeg, zstd=False)
        if self._base:
            self._container.add(f"{NAME}/zarr.json", base_metadata(self._base))
        if self.header.generated:
            version = "3.0" if self.header.generated.solver == "ddim" else "3.1"
        elif self._base and self._base.background:
            version = "2.2" if stored.basis else "1.4"
        elif self.header.edits:
            version = "2.1" if stored.basis else "1.3"
        else:
            version = "2.0" if stored.basis else "1.2" if self._base else self.header.slide.version
        manifest = Manifest(
            **{name: getattr(self.header, name) for name in Header.model_fields},
            format=FORMAT,
            version=version,
            grid=Grid(rows=self.rows, cols=self.cols),
            tissue_tiles=int(stored.mask.sum()),
            unreadable=sorted(self._unreadable),
            quantisation=stored.quantisation(),
            overview=self._overview[0] if self._overview else None,
            base=self._base,
            latents=latents,
            members=list(self._container.members),
        )
        self._container.finish(dump_manifest(manifest), int(version[0]))


def write_archive(
    path: Path | str,
    header: Header,
    positions: ArrayLike,
    embeddings: ArrayLike,
    background: ArrayLike,
    *,
    precision: Precision = "int8",
    overview: tuple[int, ArrayLike] | None = None,
    quality: int = 75,
    base: tuple[int, ArrayLike] | None = None,
    base_codec: str = "avif",
    base_quality: int | None = None,
    latents: Mapping[int, tuple[ArrayLike, ArrayLike]] | None = None,
    unreadable: ArrayLike = (),
) -> None:
    """Write an archive in one call; see `ArchiveWriter` for shapes and errors.

    `overview` (before version 1.2) and `base` are (level, pixels); `latents` maps levels
    to (offsets, values).
    """
    with ArchiveWriter(path, header, background, precision) as writer:
        writer.add_embeddings(positions, embeddings)
        writer.add_unreadable(unreadable)
        if overview is not None:
            writer.set_overview(*overview, quality=quality)
        if base is not None:
            writer.add_base(*base, codec=base_codec, quality=base_quality)
        for level in sorted(latents or {}):
            writer.add_latents(level, *(latents or {})[level])
