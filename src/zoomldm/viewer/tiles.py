"""Tiles of 256 px: from the cache, or made once for all requests."""

import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from zoomldm.errors import RegionError
from zoomldm.geometry.levels import COUNT, TILE
from zoomldm.viewer.cache import TileCache
from zoomldm.viewer.catalogue import Entry
from zoomldm.viewer.pictures import MOST_SEED, ArchiveImage, Pixels
from zoomldm.viewer.work import WorkQueue

Format = Literal["jpg", "webp", "png"]
MEDIA: dict[str, str] = {"jpg": "image/jpeg", "webp": "image/webp", "png": "image/png"}
QUALITY = 88
READERS = 2  # threads that read stored pixels
URGENCY = 3  # RFC 9218: 0 is the most urgent, 7 the least


@dataclass(frozen=True)
class TileKey:
    """Which tile, and in which format.

    Attributes:
        slide: id of an entry.
        version: digest of all that the pixels depend on besides the seed.
        seed: noise seed; 0 if nothing is generated.
        level: 0 to 7.
        col: column among the level's tiles of 256 px.
        row: row among the level's tiles of 256 px.
        format: format of the file.
    """

    slide: str
    version: str
    seed: int
    level: int
    col: int
    row: int
    format: Format

    @property
    def text(self) -> str:
        """Name in a cache, and the tile's ETag."""
        place = f"{self.level}/{self.col}_{self.row}.{self.format}"
        return f"{self.slide}/{self.version}/{self.seed}/{place}"


def check_tile(entry: Entry, key: TileKey) -> None:
    """Refuse a tile that does not exist.

    Raises:
        RegionError: the version, seed or level is wrong, or the tile is outside the slide.
    """
    if key.version != entry.version:
        raise RegionError(
            "these pixels belong to another archive, pipeline or setting; reload the page"
        )
    check_seed(entry, key.seed)
    if not 0 <= key.level < COUNT:
        raise RegionError(f"level {key.level} does not exist; expected 0 to {COUNT - 1}")
    width, height = entry.sizes[key.level]
    cols, rows = -(-width // TILE), -(-height // TILE)
    if not (0 <= key.col < cols and 0 <= key.row < rows):
        raise RegionError(
            f"tile {key.col}_{key.row} is outside level {key.level}, which has {cols} x {rows}"
        )


def check_seed(entry: Entry, seed: int) -> None:
    """Refuse a seed that can't be shown.

    Raises:
        RegionError: out of range, or not 0 for a slide, where nothing is generated.
    """
    most = MOST_SEED if entry.kind == "archive" else 0
    if not 0 <= seed <= most:
        raise RegionError(f"seed {seed} does not exist; expected 0 to {most}")


def encode(pixels: Pixels, kind: Format) -> bytes:
    """Encode (h, w, 3) uint8 sRGB as an image file."""
    image, out = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if kind == "jpg":
        image.save(out, "JPEG", quality=QUALITY, subsampling=0)
    elif kind == "webp":
        image.save(out, "WEBP", quality=QUALITY, method=2)
    else:
        image.save(out, "PNG", compress_level=3)
    return out.getvalue()


class TileService:
    """Tiles by key. Stored pixels never wait behind generated ones, which have one thread.

    Args:
        cache: cache of encoded tiles.
        most: tiles that may wait to be generated; four times as many may wait to be read.
    """

    def __init__(self, cache: TileCache, most: int = 256) -> None:
        self.cache = cache
        self.reading = WorkQueue(READERS, 4 * most)
        self.making = WorkQueue(1, most)
        self.hits = {"memory": 0, "disk": 0, "none": 0}
        self._confidence: dict[tuple[str, int], dict[tuple[int, int], float]] = {}

    async def tile(self, entry: Entry, key: TileKey, urgency: int = URGENCY) -> bytes:
        """Return the bytes of a tile that `check_tile` accepted.

        Args:
            entry: entry of the tile.
            key: the tile.
            urgency: 0 (most urgent) to 7.

        Raises:
            BusyError: too many tiles wait.
            GoneError: the file is no longer the one that was opened.
            ZoomLDMError: the tile can't be read.
        """
        name = key.text
        found = self.cache.remembered(name)
        if found is not None:
            self.hits["memory"] += 1
            return found
        rank = urgency, -key.level
        data = await self.reading.do(("disk", name), lambda: self.cache.read(name), rank)
        if data is not None:
            self.hits["disk"] += 1
        else:
            self.hits["none"] += 1
            queue = self.reading if entry.image.is_real(key.level) else self.making
            data = await queue.do(name, lambda: self._make(entry, key), rank)
        self.cache.remember(name, data)
        return data

    def _make(self, entry: Entry, key: TileKey) -> bytes:
        """Read or generate a tile and cache it on disk; runs in a worker thread."""
        image, level = entry.image, key.level
        image.check()
        x, y = key.col * TILE, key.row * TILE
        pixels = image.read(key.seed, level, x, y, TILE, TILE)
        if level == 0 and isinstance(image, ArchiveImage) and not image.is_real(0):
            self._judge(entry, image, key, pixels)
        width, height = entry.sizes[level]
        data = encode(pixels[: height - y, : width - x], key.format)
        self.cache.write(key.text, data)
        return data

    def _judge(self, entry: Entry, image: ArchiveImage, key: TileKey, pixels: Pixels) -> None:
        cosine = image.confidence(key.row, key.col, pixels)
        if cosine is not None:
            self._known(entry, key.seed)[key.row, key.col] = cosine
            name = _confidence_key(entry, key.seed, key.row, key.col)
            self.cache.write(name, struct.pack("<d", cosine))

    def _known(self, entry: Entry, seed: int) -> dict[tuple[int, int], float]:
        return self._confidence.setdefault((entry.id, seed), {})

    async def confidence(
        self, entry: Entry, seed: int, rows: range, cols: range
    ) -> list[tuple[int, int, float]]:
        """Return (row, col, cosine) of a block's tiles generated at 20x so far."""
        image = entry.image
        assert isinstance(image, ArchiveImage)

        def look() -> list[tuple[int, int, float]]:
            known, mask = self._known(entry, seed), image.archive.mask
            found = []
            for row in rows:
                for col in cols:
                    if not mask[row, col]:
                        continue
                    value = known.get((row, col))
                    if value is None:
                        data = self.cache.read(_confidence_key(entry, seed, row, col))
                        if data is not None and len(data) == 8:
                            value = known[row, col] = struct.unpack("<d", data)[0]
                    if value is not None:
                        found.append((row, col, round(value, 4)))
            return found

        return await self.reading.do(("confidence", entry.id, seed, rows, cols), look, (0,))

    async def close(self) -> None:
        """Refuse waiting calls, wait for running ones, and close the cache."""
        await self.making.close()
        await self.reading.close()
        self.cache.close()


def _confidence_key(entry: Entry, seed: int, row: int, col: int) -> str:
    return f"{entry.id}/{entry.version}/{seed}/confidence/{row}_{col}"
