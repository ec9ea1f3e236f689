"""Inputs of a large image: a region of an archive, a tile repeated, or a grid in a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive, open_archive
from zoomldm.errors import ArchiveError, ConfigError, RegionError
from zoomldm.geometry.lattice import densest_region
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder
from zoomldm.sampling.reference import read_reference

MOST_TILES = 1_000_000


@dataclass(frozen=True)
class LargeInput:
    """Embeddings of a large image.

    Attributes:
        grid: (rows, cols, D) float32.
        source: what it was read from, for provenance.
    """

    grid: NDArray[np.float32]
    source: dict[str, Any]


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Numbers of tile rows and columns of an image of width x height px.

    Raises:
        ConfigError: not whole tiles, empty, or over a million tiles.
    """
    width, height = size
    if width < 1 or height < 1 or width % TILE or height % TILE:
        near = "x".join(str(max(1, round(n / TILE)) * TILE) for n in size)
        raise ConfigError(f"size {width}x{height}: expected multiples of {TILE} px, such as {near}")
    rows, cols = height // TILE, width // TILE
    if rows * cols > MOST_TILES:
        raise ConfigError(
            f"size {width}x{height} is of {rows * cols:,} tiles; expected {MOST_TILES:,} at most"
        )
    return rows, cols


def read_input(text: str, size: tuple[int, int], pipeline: ZoomLDMPipeline) -> LargeInput:
    """Read the input of a large image.

    Args:
        text: an archive, with `@X,Y` for the corner (else the place with the highest tissue
            fraction is taken); an image of one tile, whose tissue fills the image; or a grid
            (rows, cols, D) of raw embeddings in a .npy file.
        size: width and height (px), multiples of 256.
        pipeline: its patch encoder made the archive or embeds the tile.

    Raises:
        ConfigError: a size or a grid that does not fit, or none of these inputs.
        RegionError: a region that is not inside the archive's grid.
        ArchiveError: an archive made by another patch encoder, or a region without tissue.
        PipelineError: a tile for a pipeline without patch encoder.
    """
    rows, cols = check_size(size)
    path, _, place = text.rpartition("@")
    if Path(text).suffix == ".npy":
        return _of_grid(Path(text), rows, cols, pipeline)
    if Path(text).suffix == ".zldm":
        return _of_archive(Path(text), None, rows, cols, pipeline)
    if Path(path).suffix == ".zldm":
        return _of_archive(Path(path), place, rows, cols, pipeline)
    reference = read_reference(text, pipeline)
    grid = np.broadcast_to(reference.embedding, (rows, cols, len(reference.embedding)))
    return LargeInput(grid, reference.source)


def _of_grid(path: Path, rows: int, cols: int, pipeline: ZoomLDMPipeline) -> LargeInput:
    try:
        grid = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: can't be read as a .npy file of numbers ({error})") from error
    expected = rows, cols, pipeline.embedding_dim
    if grid.shape != expected or grid.dtype.kind not in "fiu" or not np.isfinite(grid).all():
        raise ConfigError(
            f"{path}: holds {grid.dtype} of shape {grid.shape}; expected finite numbers of shape "
            f"{expected}: rows and columns of tiles, and the pipeline's embedding dimension"
        )
    return LargeInput(grid.astype(np.float32), {"grid": path.name})


def _of_archive(
    path: Path, place: str | None, rows: int, cols: int, pipeline: ZoomLDMPipeline
) -> LargeInput:
    corner = None if place is None else _corner(path, place)
    with open_archive(path) as archive:
        check_encoder(archive, pipeline)
        if rows > archive.rows or cols > archive.cols:
            raise RegionError(
                f"{path}: has {archive.cols * TILE} x {archive.rows * TILE} px; expected a --size "
                "of no more"
            )
        row, col = corner or _densest(archive, rows, cols)
        if row + rows > archive.rows or col + cols > archive.cols:
            raise RegionError(
                f"{path}: {cols * TILE} x {rows * TILE} px from {col * TILE},{row * TILE} on are "
                f"not inside its {archive.cols * TILE} x {archive.rows * TILE}"
            )
        if not archive.mask[row : row + rows, col : col + cols].any():
            raise ArchiveError(f"{path}: no tissue there; give another @X,Y")
        grid = archive.embeddings(row, row + rows, col, col + cols)
        source = {
            "archive": path.name,
            "archive_digest": archive.digest,
            "x": col * TILE,
            "y": row * TILE,
        }
    return LargeInput(grid, source)


def _corner(path: Path, place: str) -> tuple[int, int]:
    try:
        x, y = (int(v) for v in place.split(","))
    except ValueError:
        x = y = -1
    if min(x, y) < 0 or x % TILE or y % TILE:
        raise ConfigError(f"{path}@{place}: expected @X,Y in px at 0.5 mpp, multiples of {TILE}")
    return y // TILE, x // TILE


def _densest(archive: Archive, rows: int, cols: int) -> tuple[int, int]:
    """First tile of the region whose central square of tiles has the highest tissue fraction."""
    side = min(rows, cols)
    down, right = (rows - side) // 2, (cols - side) // 2
    tall, wide = archive.rows - rows + side, archive.cols - cols + side
    inner = archive.mask[down : down + tall, right : right + wide]
    x, y, _, _ = densest_region(inner, archive.size, side * TILE)
    return y // TILE, x // TILE
