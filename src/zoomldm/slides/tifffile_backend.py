"""OME-TIFF and plain TIFF through tifffile, and single levels of TIFF-based slides."""

import math
import struct
import threading
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from zoomldm.errors import SlideError
from zoomldm.slides.backend import ScaleCandidate, SlideReadError, one_line, unreadable
from zoomldm.slides.scale import micrometres, resolution_mpp

SEGMENT_LIMIT = 1 << 29  # bytes that one tile or strip may decode to
_JPEG = {6, 7, 33007, 34892}
_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
READ_ERRORS = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    struct.error,
)


class SegmentCache:
    """Decoded tiles or strips, the least recently used dropped beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._held: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def get(self, key: tuple[int, int]) -> np.ndarray | None:
        """The segment kept under (level, index)."""
        segment = self._held.get(key)
        if segment is not None:
            self._held.move_to_end(key)
        return segment

    def put(self, key: tuple[int, int], segment: np.ndarray) -> None:
        """Keep a segment, whatever its size, until others push it out."""
        self._held[key] = segment
        self._bytes += segment.nbytes
        while self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes


class TiffLevel:
    """One page of 8-bit RGB, RGBA or grey, tiled or in strips.

    Not safe for threads by itself: the owner locks.
    """

    def __init__(self, page: tifffile.TiffPage, number: int, cache: SegmentCache) -> None:
        """Check the page.

        Raises:
            SlideError: pixels of another kind, or tiles or strips too big to decode.
        """
        self.page = page
        self.size = (page.imagewidth, page.imagelength)
        self._number = number
        self._cache = cache
        self._planar = page.planarconfig == 2 and page.samplesperpixel > 1
        samples, self._premultiplied = page.samplesperpixel, 1 in page.extrasamples
        if (
            page.dtype != np.uint8
            or samples not in (1, 3, 4)
            or page.imagedepth != 1
            or page.photometric == tifffile.PHOTOMETRIC.PALETTE
        ):
            raise SlideError(
                f"found {samples} samples of {page.dtype} per pixel ({page.photometric!s}); "
                f"expected 8-bit RGB"
            )
        if page.is_tiled:
            self._tile = (page.tilewidth, page.tilelength)
        else:
            self._tile = (page.imagewidth, min(page.rowsperstrip or page.imagelength, self.size[1]))
        self._raw = page.is_contiguous and page.is_memmappable and not self._planar
        cell = self._tile[0] * self._tile[1] * (1 if self._planar else samples)
        if cell > SEGMENT_LIMIT and not self._raw:
            raise SlideError(
                f"stored in compressed tiles or strips of {self._tile[0]} x {self._tile[1]} px; "
                f"expected at most {SEGMENT_LIMIT >> 20} MiB each: save it as a tiled TIFF"
            )

    def complete(self, x: int, y: int, width: int, height: int) -> bool:
        """Whether every tile under the region has bytes."""
        return all(self.page.databytecounts[i] > 0 for i, *_ in self._segments(x, y, width, height))

    def read(self, x: int, y: int, width: int, height: int) -> Image.Image:
        """A region inside the level; tiles without bytes are white.

        Raises:
            ValueError, RuntimeError, OSError, tifffile.TiffFileError: undecodable.
        """
        samples = self.page.samplesperpixel
        if self._raw:
            pixels = self._read_raw(x, y, width, height)
        else:
            pixels = np.full((height, width, samples), 255, np.uint8)
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
        return self._picture(pixels)

    def _picture(self, pixels: np.ndarray) -> Image.Image:
        if pixels.shape[2] == 1:
            white_is_zero = self.page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            grey = Image.fromarray(255 - pixels[..., 0] if white_is_zero else pixels[..., 0])
            return grey.convert("RGB")
        if pixels.shape[2] == 4 and self._premultiplied:
            height, width = pixels.shape[:2]
            data = np.ascontiguousarray(pixels).tobytes()
            return Image.frombytes("RGBa", (width, height), data).convert("RGBA")
        return Image.fromarray(pixels)

    def _segments(
        self, x: int, y: int, width: int, height: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Index, plane, left and top of every tile or strip under a region."""
        tile_w, tile_h = self._tile
        across, down = -(-self.size[0] // tile_w), -(-self.size[1] // tile_h)
        for plane in range(self.page.samplesperpixel if self._planar else 1):
            for row in range(y // tile_h, -(-(y + height) // tile_h)):
                for col in range(x // tile_w, -(-(x + width) // tile_w)):
                    index = (plane * down + row) * across + col
                    yield index, plane, col * tile_w, row * tile_h

    def _segment(self, index: int) -> np.ndarray | None:
        """A decoded tile or strip (rows, cols, samples); None where the file holds no bytes."""
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
        if page.compression in _JPEG:
            extra = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        decoded = page.decode(data, index, _fullsize=False, **extra)[0]
        if decoded is None:
            return None
        segment = np.ascontiguousarray(decoded[0])
        self._cache.put(key, segment)
        return segment

    def _read_raw(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Rows of an uncompressed page, straight from the file."""
        samples = self.page.samplesperpixel
        stride = self.size[0] * samples
        handle = self.page.parent.filehandle
        pixels = np.empty((height, width, samples), np.uint8)
        for row in range(height):
            handle.seek(self.page.dataoffsets[0] + (y + row) * stride + x * samples)
            data = handle.read(width * samples)
            if len(data) != width * samples:
                raise ValueError(f"file ends inside row {y + row}")
            pixels[row] = np.frombuffer(data, np.uint8).reshape(width, samples)
        return pixels


def page_scale(page: tifffile.TiffPage) -> ScaleCandidate:
    """The mpp of a page's resolution tags, NaN where there are none."""
    found = []
    unit = page.tags.valueof(296)
    for code in (282, 283):
        value = page.tags.valueof(code)
        density = value[0] / value[1] if isinstance(value, tuple) and value[1] else math.nan
        found.append(resolution_mpp(density, _UNITS.get(int(unit or 2), "")))
    return ScaleCandidate("tiff resolution", found[0], found[1])


def ome_scale(xml: str) -> ScaleCandidate | None:
    """The PhysicalSize of the first image in OME-XML; None where it has none."""
    if "<!ENTITY" in xml:
        return None
    try:
        root = ElementTree.fromstring(xml.encode())  # noqa: S314
    except ElementTree.ParseError:
        return None
    pixels = root.find(".//{*}Pixels")
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    x, y = (
        micrometres(
            pixels.get(f"PhysicalSize{axis}", pixels.get("PhysicalSizeX")),
            pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"),
        )
        for axis in "XY"
    )
    return ScaleCandidate("ome", x, y)


class TifffileBackend:
    """A TIFF opened by tifffile: its largest picture and that picture's reduced levels."""

    name = "tifffile"

    def __init__(self, path: Path, cache_bytes: int) -> None:
        """Open the file.

        Raises:
            SlideError: not a TIFF of 8-bit RGB; the message does not name the file.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            self._tiff = tifffile.TiffFile(path)
        except Exception as error:  # a damaged TIFF may fail in any way
            raise SlideError(one_line(error) or type(error).__name__) from error
        try:
            self._open(cache_bytes)
        except SlideError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise SlideError(one_line(error) or type(error).__name__) from error

    def _open(self, cache_bytes: int) -> None:
        tiff = self._tiff
        ome = tiff.is_ome and tiff.ome_metadata
        series = max(
            (s for s in tiff.series if s.keyframe is not None),
            key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength,
            default=None,
        )
        if series is None:
            raise SlideError("no picture in the file")
        if len(series.pages) != 1:
            raise SlideError(
                f"a stack of {len(series.pages)} planes (axes {series.axes}); expected one RGB "
                f"picture"
            )
        cache = SegmentCache(cache_bytes)
        self._levels = [
            TiffLevel(level.keyframe, number, cache) for number, level in enumerate(series.levels)
        ]
        self._levels.sort(key=lambda level: -level.size[0])
        page = series.keyframe
        if page.samplesperpixel == 1 and ome:
            raise SlideError(f"one channel (axes {series.axes}); expected RGB")
        self.level_sizes = [level.size for level in self._levels]
        self.icc: bytes | None = page.tags.valueof(34675) or None
        scales = [ome_scale(ome)] if ome else []
        self.scales = [found for found in [*scales, page_scale(page)] if found is not None]
        self.vendor = "ome-tiff" if ome else "generic-tiff"
        self.properties = {"vendor": self.vendor}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """See `Backend.read`."""
        try:
            with self._lock:
                return self._levels[level].read(x, y, width, height)
        except READ_ERRORS as error:
            raise SlideReadError(
                unreadable(self._path, level, (x, y, width, height), error)
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
