"""Slides packed as coded tiles, one file each, to move them to a machine without the slides.

A file `<name>.npz` holds `tiles` (AVIF or JPEG bytes of 256 px RGB tiles, joined, uint8), `offsets`
(n + 1, int64), `where` (n, 2) int16 row and column, `shape` (2,) rows and columns, `mask` (R, C)
bool tissue and `block` (R, C) bool withheld tissue. Missing tiles are white.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILE = 256
WHITE = 255
JPEG = b"\xff\xd8"
GROUP = 256  # tiles copied to the device at once


@dataclass(frozen=True)
class PackedSlide:
    """A slide at 20x.

    Attributes:
        name: name of its file, without the suffix.
        mosaic: (R * 256, C * 256, 3) uint8 on the requested device.
        mask: (R, C) tissue.
        block: (R, C) tissue withheld from training.
        stored: (R, C) whether a tile is stored; the others are white.
    """

    name: str
    mosaic: Tensor
    mask: NDArray[np.bool_]
    block: NDArray[np.bool_]
    stored: NDArray[np.bool_]


def write_packed(
    path: str | Path,
    tiles: Sequence[bytes],
    where: NDArray[Any],
    mask: NDArray[np.bool_],
    block: NDArray[np.bool_],
) -> None:
    """Write a slide's tiles.

    Args:
        path: the file, `<name>.npz`.
        tiles: AVIF or JPEG bytes of each tile.
        where: (n, 2) row and column of each tile.
        mask: (R, C) tissue.
        block: (R, C) tissue withheld from training.
    """
    sizes = np.array([0, *map(len, tiles)], np.int64)
    np.savez(
        path,
        tiles=np.frombuffer(b"".join(tiles), np.uint8),
        offsets=np.cumsum(sizes),
        where=np.asarray(where, np.int16).reshape(-1, 2),
        shape=np.array(mask.shape, np.int64),
        mask=mask,
        block=block,
    )


def encode_tiles(
    tiles: Iterable[NDArray[np.uint8]], quality: int = 80, threads: int = 2
) -> list[bytes]:
    """Encode tiles (256, 256, 3) as AVIF bytes."""

    def encode(tile: NDArray[np.uint8]) -> bytes:
        return imagecodecs.avif_encode(tile, level=quality, speed=8, numthreads=1)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(encode, tiles))


def read_packed(
    folder: str | Path,
    device: torch.device | str = "cpu",
    threads: int = 16,
    names: Sequence[str] | None = None,
) -> list[PackedSlide]:
    """Read all slides of a folder, or those named, sorted by name.

    Args:
        folder: folder of the files.
        device: device of the mosaics.
        threads: number of decoding threads.
        names: names of slides; None for all.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(Path(folder).glob("*.npz"))
    if names is not None:
        paths = [p for p in paths if p.stem in names]
    if not paths:
        raise FileNotFoundError(f"{folder}: no packed slides (*.npz); write them with pack.py")
    with ThreadPoolExecutor(threads) as pool:
        return [_read(path, torch.device(device), pool) for path in paths]


def _read(path: Path, device: torch.device, pool: ThreadPoolExecutor) -> PackedSlide:
    with np.load(path) as file:
        blob, offsets = file["tiles"], file["offsets"]
        where, shape = file["where"].astype(np.int64), file["shape"]
        mask, block = file["mask"], file["block"]
    rows, columns = map(int, shape)
    mosaic = torch.full((rows, TILE, columns, TILE, 3), WHITE, dtype=torch.uint8, device=device)
    stored = np.zeros((rows, columns), bool)
    for start in range(0, len(where), GROUP):
        span = range(start, min(start + GROUP, len(where)))
        parts = [blob[offsets[i] : offsets[i + 1]].tobytes() for i in span]
        tiles = torch.from_numpy(np.stack(list(pool.map(_decode, parts)))).to(device)
        row, column = where[start : span.stop].T
        mosaic[torch.from_numpy(row).to(device), :, torch.from_numpy(column).to(device)] = tiles
        stored[row, column] = True
    whole = mosaic.view(rows * TILE, columns * TILE, 3)
    return PackedSlide(path.stem, whole, mask, block, stored)


def _decode(data: bytes) -> NDArray[np.uint8]:
    """Decode AVIF or JPEG bytes to (256, 256, 3) uint8."""
    return imagecodecs.jpeg8_decode(data) if data[:2] == JPEG else imagecodecs.avif_decode(data)
