"""One stored level of a TIFF, decoded tile by tile through tifffile."""

import struct
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import tifffile
from PIL import Image

from zoomldm.errors import SlideError
from zoomldm.slides.tiff_tags import JPEG, Colours, orientation_of, samples_of

SEGMENT_LIMIT = 1 << 29  # bytes that one tile or strip may decode to
READ_ERRORS = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    struct.error,
)
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SegmentCache:
    """A cache of decoded tiles or strips; beyond `limit` bytes, drops the least recently used."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._held: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def get(self, key: tuple[int, int]) -> np.ndarray | None:
        """The segment cached under (level, index), or None."""
        segment = self._held.get(key)
        if segment is not None:
            self._held.move_to_end(key)
        return segment

    def put(self, key: tuple[int, int], segment: np.ndarray) -> None:
        """Cache a segment of any size until others displace it."""
        self._held[key] = segment
        self._bytes += segment.nbytes
        while self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes


class TiffLevel:
    """One page of 8-bit samples that can be converted to RGB, tiled or in strips.

    A page with an Orientation tag is read in its display orientation, mirrored and rotated as a
    whole. Not thread-safe by itself: the owner locks.

    Attributes:
        page: tifffile's page.
        size: (width, height) in px in display orientation.
    """

    def __init__(self, page: tifffile.TiffPage, number: int, cache: SegmentCache) -> None:
        """Check the page.

        Raises:
            SlideError: unsupported pixels, or tiles or strips too large to decode.
        """
        self.page = page
        self._stored = (page.imagewidth, page.imagelength)
        self._orientation = orientation_of(page)
        self.size = self._stored[::-1] if self._orientation > 4 else self._stored
        self._number = number
        self._cache = cache
        self._planar = page.planarconfig == 2 and page.samplesperpixel > 1
        self._samples = samples_of(page)
        if page.is_tiled:
            self._tile = (page.tilewidth, page.tilelength)
        else:
            rows = min(page.rowsperstrip or page.imagelength, page.imagelength)
            self._tile = (page.imagewidth, rows)
        self._raw = page.is_contiguous and page.is_memmappable and not self._planar
        cell = self._tile[0] * self._tile[1] * (1 if self._planar else page.samplesperpixel)
        if cell > SEGMENT_LIMIT and not self._raw:
            raise SlideError(
                f"stored in compressed tiles or strips of {self._tile[0]} x {self._tile[1]} px; "
                f"expected at most {SEGMENT_LIMIT >> 20} MiB each: save it as a tiled TIFF"
            )

    @property
    def tile(self) -> tuple[int, int] | None:
        """Width and height (px) of a tile in display orientation; None for strips."""
        if not self.page.is_tiled:
            return None
        width, height = self._tile
        return (height, width) if self._orientation > 4 else (width, height)

    def complete(self, x: int, y: int, width: int, height: int) -> bool:
        """Whether every tile under the region has data in the file."""
        region = self._stored_region(x, y, width, height)
        return all(self.page.databytecounts[i] > 0 for i, *_ in self._segments(*region))

    def read(self, x: int, y: int, width: int, height: int) -> Image.Image:
        """Read a region inside the level; tiles without data are white.

        Raises:
            ValueError, RuntimeError, OSError, tifffile.TiffFileError: it can't be decoded.
        """
        region = self._stored_region(x, y, width, height)
        image = self._image(self._read_raw(*region) if self._raw else self._read(*region))
        turned = _TRANSPOSED.get(self._orientation)
        return image if turned is None else image.transpose(turned)

    def _stored_region(self, x: int, y: int, w: int, h: int) -> tuple[int, int, int, int]:
        """The region's position and size in the page as stored."""
        across, down = self._stored
        if self._orientation > 4:
            x, y, w, h = y, x, h, w
        if self._orientation in (2, 3, 7, 8):
            x = across - x - w
        if self._orientation in (3, 4, 6, 7):
            y = down - y - h
        return x, y, w, h

    def _read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Samples (height, width, samples) of a region of the page."""
        pixels = np.empty((height, width, self.page.samplesperpixel), np.uint8)
        pixels[:] = self._samples.white
        for index, plane, left, top in self._segments(x, y, width, height):
            segment = self._segment(index)
            if segment is None:
                continue
            x0, y0 = max(x, left), max(y, top)
            x1 = min(x + width, left + segment.shape[1])
            y1 = min(y + height, top + segment.shape[0])
            part = segment[y0 - top : y1 - top, x0 - left : x1 - left]
            if self._planar:
                pixels[y0 - y : y1 - y, x0 - x : x1 - x, plane] = part[..., 0]
            else:
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return pixels

    def _image(self, pixels: np.ndarray) -> Image.Image:
        """RGB or RGBA of samples (height, width, samples)."""
        kind, alpha = self._samples.colours, self._samples.alpha
        colours = np.ascontiguousarray(pixels[..., : self._samples.count])
        if kind is Colours.INVERTED:
            colours = 255 - colours
        elif kind is Colours.CMYK:
            # As in libtiff, so that tiles and strips give the same result.
            ink = 255 - colours.astype(np.uint16)
            colours = (ink[..., :3] * ink[..., 3:] // 255).astype(np.uint8)
        elif kind is Colours.YCBCR:
            size = pixels.shape[1], pixels.shape[0]
            image = Image.frombytes("YCbCr", size, colours.tobytes()).convert("RGB")
            colours = np.asarray(image)
        if colours.shape[2] == 1:
            colours = np.repeat(colours, 3, axis=2)
        if alpha is None:
            return Image.fromarray(colours)
        with_alpha = np.dstack([colours, pixels[..., alpha]])
        if self._samples.premultiplied:
            size = pixels.shape[1], pixels.shape[0]
            return Image.frombytes("RGBa", size, with_alpha.tobytes()).convert("RGBA")
        return Image.fromarray(with_alpha)

    def _segments(
        self, x: int, y: int, width: int, height: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Index, plane, left and top of every tile or strip under a region."""
        tile_w, tile_h = self._tile
        across, down = -(-self._stored[0] // tile_w), -(-self._stored[1] // tile_h)
        for plane in range(self.page.samplesperpixel if self._planar else 1):
            for row in range(y // tile_h, -(-(y + height) // tile_h)):
                for col in range(x // tile_w, -(-(x + width) // tile_w)):
                    index = (plane * down + row) * across + col
                    yield index, plane, col * tile_w, row * tile_h

    def _segment(self, index: int) -> np.ndarray | None:
        """A decoded tile or strip (rows, cols, samples); None if it has no data in the file."""
        key = (self._number, index)
        segment = self._cache.get(key)
        if segment is not None:
            return segment
        page = self.page
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        handle = page.parent.filehandle
        handle.seek(offset)
        data = handle.read(count)
        if len(data) != count:
            raise ValueError(f"file ends inside tile {index}")
        extra = {}
        if page.compression in JPEG:
            extra = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        decoded = page.decode(data, index, _fullsize=False, **extra)[0]
        if decoded is None:
            return None
        segment = np.ascontiguousarray(decoded[0])
        self._cache.put(key, segment)
        return segment

    def _read_raw(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region of an uncompressed page directly from the file."""
        samples = self.page.samplesperpixel
        stride = self._stored[0] * samples
        handle = self.page.parent.filehandle
        pixels = np.empty((height, width, samples), np.uint8)
        for row in range(height):
            handle.seek(self.page.dataoffsets[0] + (y + row) * stride + x * samples)
            data = handle.read(width * samples)
            if len(data) != width * samples:
                raise ValueError(f"file ends inside row {y + row}")
            pixels[row] = np.frombuffer(data, np.uint8).reshape(width, samples)
        return pixels
