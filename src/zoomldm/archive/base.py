"""The base layer: the real image stored at one level, read region by region.

It is the array `overview`, cut into square chunks, each of which is an image file. Only chunks
that tissue touches are stored; the others have the background's colour.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive.borders import even_blocks, even_out
from zoomldm.archive.image_codecs import decode_image
from zoomldm.archive.manifest import Base, dump_json, parse_json
from zoomldm.errors import ArchiveError
from zoomldm.geometry.levels import COARSEST, TILE, level_size

NAME = "overview"
CHUNK = 1024  # side of a chunk in px of the level; a side of 512 costs 2.6 % more bytes
MARGIN = 1  # tiles around tissue that are stored with it
WHITE = 255
LOSSLESS = "png"
OVERVIEW_SIDE = 2048  # px: the longest side at which a base layer is shown as a whole
_REACH = 4  # px around a region that its px next to chunk borders depend on
_STRIP = 1 << 22  # px read at once while a large layer is averaged

Pixels = NDArray[np.uint8]


class Span(NamedTuple):
    """Rows and columns (half-open) of the grid."""

    row0: int
    row1: int
    col0: int
    col1: int


def chunk_tiles(base: Base, row: int, col: int, margin: int = 0) -> Span:
    """Tiles that chunk (row, col) overlaps, plus `margin` on each side; may exceed the grid."""
    side = base.chunk << base.level
    return Span(
        row * side // TILE - margin,
        -(-(row + 1) * side // TILE) + margin,
        col * side // TILE - margin,
        -(-(col + 1) * side // TILE) + margin,
    )


def touches(mask: NDArray[np.bool_], span: Span) -> bool:
    """Whether any tile of a span is True in a mask (rows, cols)."""
    return bool(mask[max(span.row0, 0) : span.row1, max(span.col0, 0) : span.col1].any())


def count_tiles(base: Base, mask: NDArray[np.bool_], row: int, col: int) -> int:
    """Number of tissue tiles that chunk (row, col) overlaps."""
    span = chunk_tiles(base, row, col)
    return int(mask[span.row0 : span.row1, span.col0 : span.col1].sum())


def stored_chunks(base: Base, mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(row, col), in order, of the chunks that lie within one tile of tissue.

    Args:
        base: the base layer.
        mask: bool (rows, cols) of tissue tiles.
    """
    rows, cols = -(-base.height // base.chunk), -(-base.width // base.chunk)
    return [
        (row, col)
        for row, col in itertools.product(range(rows), range(cols))
        if touches(mask, chunk_tiles(base, row, col, MARGIN))
    ]


def chunk_name(row: int, col: int) -> str:
    """Name of the member that holds chunk (row, col)."""
    return f"{NAME}/c/{row}/{col}/0"


def base_metadata(base: Base) -> bytes:
    """The array's `zarr.json`; codec names are those of the package imagecodecs-zarr."""
    return dump_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [base.height, base.width, 3],
            "data_type": "uint8",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [base.chunk, base.chunk, 3]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": WHITE,
            "codecs": [{"name": f"imagecodecs_{base.codec}", "configuration": {}}],
            "attributes": {},
        }
    )


def check_metadata(data: bytes, base: Base, path: object) -> None:
    """Check that an array's `zarr.json` matches the base layer described in the manifest.

    Raises:
        ArchiveError: it does not.
    """
    what = f"{path}: member {NAME}/zarr.json"
    found, expected = parse_json(data, what), parse_json(base_metadata(base), what)
    for key in ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value"):
        if found.get(key) != expected[key]:
            raise ArchiveError(
                f"{what} declares {key} {found.get(key)}, expected {expected[key]} as in the "
                "manifest"
            )
    codecs = found.get("codecs")
    names = (
        [c.get("name") for c in codecs if isinstance(c, dict)] if isinstance(codecs, list) else []
    )
    if names != [expected["codecs"][0]["name"]]:
        raise ArchiveError(f"{what} declares codecs {names}, expected imagecodecs_{base.codec}")


def decode_chunk(data: bytes, base: Base, what: str) -> Pixels:
    """Decode a chunk's file to pixels (chunk, chunk, 3), read-only; evens a lossy codec's blocks.

    Raises:
        ArchiveError: it can't be decoded; `what` names it.
    """
    pixels = decode_image(data, base.codec, (base.chunk, base.chunk, 3), what)
    if base.codec != LOSSLESS:
        pixels = even_blocks(pixels)
        pixels.flags.writeable = False
    return pixels


def halve(pixels: Pixels, octaves: int) -> Pixels:
    """Average blocks of 2**octaves px of (h, w, 3), rounded; h and w must be multiples of that."""
    side = 2**octaves
    if side == 1:
        return pixels
    h, w, c = pixels.shape
    sums = pixels.reshape(h // side, side, w // side, side, c).sum((1, 3), dtype=np.uint32)
    return ((sums + side * side // 2) // (side * side)).astype(np.uint8)


class BaseLayer:
    """The real image of a slide at one level; see `Archive.base`.

    Reading from several threads is safe; decoded chunks are cached in bounded memory.

    Attributes:
        level: 0 to 7.
        codec: `avif`, `jpegxl`, `webp`, `jpeg` or `png`; only `png` is lossless.
        quality: codec quality, 1 to 100; None if it is lossless.
        size: width, height (px) of the slide at this level.
        chunk: width, height (px) of a chunk, which is encoded and decoded as a whole.
        background: RGB where nothing is stored.
    """

    def __init__(
        self,
        level: int,
        codec: str,
        quality: int | None,
        size: tuple[int, int],
        chunk: tuple[int, int],
        load: Callable[[int, int], Pixels | None],
        background: tuple[int, int, int] | None = None,
    ) -> None:
        """Create a base layer; normally done by `Archive.base`.

        Args:
            level: 0 to 7.
            codec: codec of the chunks.
            quality: codec quality.
            size: width, height (px) of the level.
            chunk: width, height (px) of a chunk.
            load: returns chunk (row, col), (height, width, 3), or None if it is not stored.
            background: RGB where nothing is stored; None is white.
        """
        self.level, self.codec, self.quality, self.size = level, codec, quality, size
        self.chunk, self._load = chunk, load
        self.background = background or (WHITE, WHITE, WHITE)

    def read(self, x: int, y: int, w: int, h: int) -> Pixels:
        """Read a region of this level's pixels.

        Args:
            x: left px; may be negative.
            y: top px; may be negative.
            w: width in px.
            h: height in px.

        Returns:
            uint8 (h, w, 3) sRGB; `background` where nothing is stored, white outside the slide.
            Steps that a lossy codec leaves at the borders of its blocks and between chunks are
            evened out (see `zoomldm.archive.borders`).

        Raises:
            ArchiveError: a chunk is damaged or can't be decoded.
        """
        if self.codec == LOSSLESS or not self._near_border(x, y, w, h):
            return self._decoded(x, y, w, h)
        left, top = x - _REACH, y - _REACH
        wider = self._decoded(left, top, w + 2 * _REACH, h + 2 * _REACH)
        self._even_borders(wider, left, top)
        return wider[_REACH:-_REACH, _REACH:-_REACH].copy()

    def _near_border(self, x: int, y: int, w: int, h: int) -> bool:
        """Whether a border between chunks lies in the region or within `_REACH` px of it."""
        for start, length, size, side in zip((x, y), (w, h), self.size, self.chunk, strict=True):
            first = max(1, -(-(start - _REACH) // side)) * side
            if first <= min(start + length + _REACH, size - 1):
                return True
        return False

    def _even_borders(self, pixels: Pixels, x: int, y: int) -> None:
        """Even out borders between stored chunks, in place; the pixels' corner is (x, y)."""
        wide, high = self.chunk
        right = min(x + pixels.shape[1], self.size[0])
        bottom = min(y + pixels.shape[0], self.size[1])
        chunks = [
            (row, col)
            for row in range(max(y, 0) // high, -(-bottom // high))
            for col in range(max(x, 0) // wide, -(-right // wide))
            if self._load(row, col) is not None
        ]
        for row, col in chunks:
            at, top = col * wide - 2 - x, max(y, row * high)
            if (row, col - 1) in chunks and at >= 0 and at + 4 + x <= right:
                box = pixels[top - y : min(bottom, (row + 1) * high) - y, at : at + 4]
                even_out(np.moveaxis(box, 1, 0))
        for row, col in chunks:
            at, left = row * high - 2 - y, max(x, col * wide)
            if (row - 1, col) in chunks and at >= 0 and at + 4 + y <= bottom:
                even_out(pixels[at : at + 4, left - x : min(right, (col + 1) * wide) - x])

    def _decoded(self, x: int, y: int, w: int, h: int) -> Pixels:
        """The region as decoded, before borders between chunks are evened out."""
        out = np.full((h, w, 3), WHITE, np.uint8)
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + w, self.size[0]), min(y + h, self.size[1])
        if x0 >= x1 or y0 >= y1:
            return out
        out[y0 - y : y1 - y, x0 - x : x1 - x] = self.background
        wide, high = self.chunk
        for row, col in itertools.product(
            range(y0 // high, (y1 - 1) // high + 1), range(x0 // wide, (x1 - 1) // wide + 1)
        ):
            pixels = self._load(row, col)
            if pixels is None:
                continue
            left, top = max(x0, col * wide), max(y0, row * high)
            right, bottom = min(x1, (col + 1) * wide), min(y1, (row + 1) * high)
            out[top - y : bottom - y, left - x : right - x] = pixels[
                top - row * high : bottom - row * high, left - col * wide : right - col * wide
            ]
        return out

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> Pixels:
        """Read a region of this level or a coarser one, by averaging this level's pixels.

        Args:
            level: `self.level` to 7.
            x: left px at that level.
            y: top px at that level.
            w: width in px of that level.
            h: height in px of that level.

        Returns:
            uint8 (h, w, 3), as from `read`.

        Raises:
            ValueError: the level is finer than this one, or does not exist.
        """
        if not self.level <= level <= COARSEST:
            raise ValueError(f"level {level} is not in {self.level}..{COARSEST}")
        octaves = level - self.level
        side = 2**octaves
        out = np.empty((h, w, 3), np.uint8)
        rows = max(1, _STRIP // max(1, w * side * side))
        for top in range(0, h, rows):
            high = min(rows, h - top)
            whole = self.read(x * side, (y + top) * side, w * side, high * side)
            out[top : top + high] = halve(whole, octaves)
        return out

    def levels(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield (level, (width, height)) of this level and all coarser ones."""
        for level in range(self.level, COARSEST + 1):
            yield level, level_size(*self.size, level - self.level)

    def overview(self) -> tuple[int, Pixels]:
        """Level and image of the whole slide: the finest level within 2048 px, or the coarsest."""
        level, size = next(
            ((k, s) for k, s in self.levels() if max(s) <= OVERVIEW_SIDE),
            (COARSEST, level_size(*self.size, COARSEST - self.level)),
        )
        return level, self.read_level(level, 0, 0, *size)
