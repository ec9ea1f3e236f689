"""Temporary storage of finished blocks' tiles, for files that need them in row-major order."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import TargetError
from zoomldm.writers.image import Block, Image

_FAN = 1000  # files per folder


def _path(folder: Path, index: int) -> Path:
    return folder / "tiles" / f"{index // _FAN:05d}" / f"{index % _FAN:03d}"


def keep_tiles(folder: Path, block: Block, tiles: Iterable[bytes]) -> None:
    """Store the encoded tiles of a block, in the order of its parts.

    The file contains the number of tiles and their lengths (uint32, little-endian), then the tiles.
    """
    data = list(tiles)
    if len(data) != block.tiles:
        raise ValueError(f"{len(data)} tiles for block {block.index} of {block.tiles}")
    path = _path(folder, block.index)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        file.write(np.array([len(data), *map(len, data)], "<u4").tobytes())
        file.writelines(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _lengths(folder: Path, block: Block) -> NDArray[np.int64]:
    path = _path(folder, block.index)
    try:
        with path.open("rb") as file:
            found = np.frombuffer(file.read(4 * (block.tiles + 1)), "<u4").astype(np.int64)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        found, size = np.zeros(0, np.int64), 0
    if (
        len(found) != block.tiles + 1
        or found[0] != block.tiles
        or size != 4 * len(found) + found[1:].sum()
    ):
        raise TargetError(f"{folder}: block {block.index} is damaged; remove that folder and rerun")
    return found[1:]


def _rows(folder: Path, image: Image, level: int) -> Iterator[tuple[Path, int, NDArray[np.int64]]]:
    """File, offset of the first tile and lengths for each run of tiles, in row-major order."""
    for row in range(image.levels[level].grid[0]):
        for block in image.row_of_blocks(level, row):
            lengths, before = _lengths(folder, block), 0
            for part in block.parts:
                if part.level == level:
                    first = before + (row - part.row) * part.cols
                    offset = 4 * (len(lengths) + 1) + int(lengths[:first].sum())
                    own = lengths[first : first + part.cols]
                    yield _path(folder, block.index), offset, own
                before += part.rows * part.cols


def stored_lengths(folder: Path, image: Image, level: int) -> NDArray[np.int64]:
    """Bytes of each tile of a level, in row-major order."""
    return np.concatenate([lengths for _, _, lengths in _rows(folder, image, level)])


def stored_tiles(folder: Path, image: Image, level: int) -> Iterator[bytes]:
    """Tiles of a level in row-major order.

    Raises:
        TargetError: a block is missing or truncated.
    """
    for path, offset, lengths in _rows(folder, image, level):
        with path.open("rb") as file:
            file.seek(offset)
            for length in lengths.tolist():
                yield file.read(length)
