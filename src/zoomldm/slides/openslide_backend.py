"""Slides of any format that OpenSlide reads."""

import threading
import warnings
from contextlib import suppress
from pathlib import Path

import openslide
import tifffile
from openslide.lowlevel import OpenSlideError
from PIL import Image, ImageCms

from zoomldm.errors import SlideError
from zoomldm.slides.backend import SlideReadError, one_line, unreadable
from zoomldm.slides.scale import property_scales
from zoomldm.slides.stored_levels import not_a_level, usable_levels
from zoomldm.slides.tiff_check import PLAIN, check_tiff
from zoomldm.slides.tiff_level import READ_ERRORS, SegmentCache, TiffLevel

_SUBPIXEL = 1 / 512  # OpenSlide renders at 1/256 px: a smaller offset is none
_CELL = 256
_DIRECT = (1, 5, 7, 8, 32946)  # TIFF's raw, LZW, JPEG, Deflate: every decoder gives the same
_SLACK = 0.01  # tolerance of a level's proportions if a scanner-specific driver finds the levels


class OpenSlideBackend:
    """A slide opened by OpenSlide.

    OpenSlide takes positions in whole pixels of level 0. If a level's downsample is not an integer
    (2.00007, from odd sizes), it renders the level shifted by a fraction of a pixel, blurred, and
    differently for every position. Such levels are decoded through tifffile if the slide is a
    TIFF, else in cells at fixed positions, so that a pixel depends only on its position.

    Attributes (besides those of `Backend`):
        misread: why tifffile must read this file instead of OpenSlide, None if it need not.
    """

    name = "openslide"

    def __init__(self, path: Path, cache_bytes: int) -> None:
        """Open the file.

        Raises:
            openslide.OpenSlideError: OpenSlide does not open it.
            SlideError: no reader reads it correctly.
        """
        self._path = path
        self._lock = threading.Lock()
        self._cache = openslide.OpenSlideCache(cache_bytes)
        self._slide = self._opened()
        slide = self._slide
        self.vendor = slide.properties.get("openslide.vendor", "unknown")
        self._stored_sizes = [(int(w), int(h)) for w, h in slide.level_dimensions]
        found = check_tiff(path, self.vendor, self._stored_sizes[0])
        self.misread = found.misread
        self._find_usable(found.named)
        self.scales = property_scales(slide.properties, found.scales)
        self.icc: bytes | None = None
        with suppress(OpenSlideError, ImageCms.PyCMSError, OSError):
            profile = slide.color_profile
            self.icc = profile.tobytes() if profile is not None else None
        names = {
            "vendor": "openslide.vendor",
            "objective_power": "openslide.objective-power",
            "quickhash": "openslide.quickhash-1",
        }
        self.properties = {
            name: slide.properties[key] for name, key in names.items() if key in slide.properties
        }
        if found.power > 0:
            self.properties.setdefault("objective_power", f"{found.power:g}")
        self._direct: dict[int, TiffLevel] | None = None
        self._tiff: tifffile.TiffFile | None = None

    def _find_usable(self, named: set[tuple[int, int]]) -> None:
        """Find the stored levels that are levels of the slide, and warn of the others."""
        properties, sizes = self._slide.properties, self._stored_sizes
        tiles: list[tuple[int, int] | None] = []
        for level in range(len(sizes)):
            sides = [
                properties.get(f"openslide.level[{level}].tile-{s}") for s in ("width", "height")
            ]
            tiles.append((int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None)
        slack = 0.0 if self.vendor in PLAIN else _SLACK
        usable, others = usable_levels(sizes, tiles, slack)
        others += [level.index for level in usable if sizes[level.index] in named]
        levels = [level for level in usable if level.index not in others]
        if not self.misread:
            for index in others:
                warnings.warn(f"{self._path}: {not_a_level(sizes[index], sizes[0])}", stacklevel=5)
        self.level_sizes = [level.size for level in levels]
        self._stored = [level.index for level in levels]
        downsamples = self._slide.level_downsamples
        self._downsamples = [downsamples[index] for index in self._stored]

    def _opened(self) -> openslide.OpenSlide:
        slide = openslide.OpenSlide(self._path)
        slide.set_cache(self._cache)
        return slide

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """See `Backend.read`."""
        region = (x, y, width, height)
        downsample = self._downsamples[level]
        if all(abs(round(at * downsample) / downsample - at) < _SUBPIXEL for at in (x, y)):
            return self._read_region(level, *region)
        direct = self._direct_level(level)
        if direct is not None:
            try:
                with self._lock:
                    if direct.complete(*region):
                        return direct.read(*region)
            except READ_ERRORS as error:
                raise SlideReadError(unreadable(self._path, level, region, error)) from error
        return self._in_cells(level, *region)

    def _read_region(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        slide, downsample = self._slide, self._downsamples[level]
        start = round(x * downsample), round(y * downsample)
        try:
            return slide.read_region(start, self._stored[level], (width, height))
        except OpenSlideError:
            self._reopen(slide)
        # The region that failed may have been another thread's: retry on a private handle.
        try:
            with self._opened() as own:
                return own.read_region(start, self._stored[level], (width, height))
        except OpenSlideError as error:
            raise SlideReadError(
                unreadable(self._path, level, (x, y, width, height), error)
            ) from error

    def _reopen(self, dead: openslide.OpenSlide) -> None:
        """Replace a handle: after one error it would fail on every later read."""
        with self._lock:
            if self._slide is dead:
                try:
                    self._slide = self._opened()
                except OpenSlideError as error:
                    raise SlideError(
                        f"{self._path}: can't be opened again ({one_line(error)}); was it moved?"
                    ) from error

    def _in_cells(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        image = Image.new("RGBA", (width, height))
        for top in range(y - y % _CELL, y + height, _CELL):
            for left in range(x - x % _CELL, x + width, _CELL):
                w = min(left + _CELL, x + width) - left
                h = min(top + _CELL, y + height) - top
                cell = self._read_region(level, left, top, w, h)
                x0, y0 = max(x, left), max(y, top)
                image.paste(cell.crop((x0 - left, y0 - top, w, h)), (x0 - x, y0 - y))
        return image

    def _direct_level(self, level: int) -> TiffLevel | None:
        """The level's own TIFF page, if the slide is a TIFF and exactly one page fits."""
        with self._lock:
            if self._direct is None:
                self._direct = {}
                if self.vendor in PLAIN:
                    try:
                        self._find_levels()
                    except (*READ_ERRORS, TypeError, AttributeError) as error:
                        # Slightly different pixels give different embeddings: warn of it.
                        warnings.warn(
                            f"{self._path}: its TIFF pages can't be read directly "
                            f"({one_line(error)}); OpenSlide draws them, a little blurred",
                            stacklevel=2,
                        )
            return self._direct.get(level)

    def _find_levels(self) -> None:
        self._tiff = tifffile.TiffFile(self._path)
        pages = [
            page
            for page in self._tiff.pages
            if isinstance(page, tifffile.TiffPage) and page.is_tiled and page.compression in _DIRECT
        ]
        cache = SegmentCache(32 << 20)
        found = {}
        for level, index in enumerate(self._stored):
            size = self._stored_sizes[index]
            fitting = [page for page in pages if (page.imagewidth, page.imagelength) == size]
            if len(fitting) == 1:
                with suppress(SlideError):  # samples that only OpenSlide converts to RGB
                    found[level] = TiffLevel(fitting[0], level, cache)
        self._direct = found

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
        if self._tiff is not None:
            self._tiff.close()
