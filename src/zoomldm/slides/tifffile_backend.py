"""OME-TIFF and plain TIFF, read with tifffile."""

import threading
import warnings
from pathlib import Path

import tifffile
from PIL import Image

from zoomldm.errors import SlideError
from zoomldm.slides.backend import ScaleCandidate, SlideReadError, one_line, unreadable
from zoomldm.slides.stored_levels import not_a_level, usable_levels
from zoomldm.slides.tiff_level import READ_ERRORS, SegmentCache, TiffLevel
from zoomldm.slides.tiff_tags import aperio_scale, ome_scale, orientation_of, page_scale


class TifffileBackend:
    """A TIFF opened by tifffile: its largest image with that image's reduced levels."""

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
            raise SlideError("no image in the file")
        if len(series.pages) != 1:
            raise SlideError(
                f"a stack of {len(series.pages)} planes (axes {series.axes}); expected one RGB "
                f"image"
            )
        page = series.keyframe
        if page.samplesperpixel == 1 and ome:
            raise SlideError(f"one channel (axes {series.axes}); expected RGB")
        self._levels = self._find_levels([level.keyframe for level in series.levels], cache_bytes)
        self.level_sizes = [size for _, size in self._levels]
        self.icc: bytes | None = page.tags.valueof(34675) or None
        description = page.description or ""
        own, power = aperio_scale(description)
        scales = [ome_scale(ome, page) if ome else None, own, page_scale(page)]
        self.scales = [found for found in scales if found is not None]
        if orientation_of(page) > 4:  # the tags describe the page as stored
            self.scales = [ScaleCandidate(s, down, across) for s, across, down in self.scales]
        self.vendor = "ome-tiff" if ome else "generic-tiff"
        self.properties = {"vendor": self.vendor}
        if power > 0:
            self.properties["objective_power"] = f"{power:g}"

    def _find_levels(
        self, pages: list[tifffile.TiffPage], cache_bytes: int
    ) -> list[tuple[TiffLevel, tuple[int, int]]]:
        """The readable levels with their sizes in px, finest first.

        Raises:
            SlideError: the finest can't be read.
        """
        pages = sorted(pages, key=lambda page: -page.imagewidth)
        cache, found = SegmentCache(cache_bytes), []
        for number, page in enumerate(pages):
            try:
                if orientation_of(page) != orientation_of(pages[0]):
                    raise SlideError("a smaller level lies otherwise than the slide")
                found.append(TiffLevel(page, number, cache))
            except SlideError as error:
                if number == 0:
                    raise
                warnings.warn(f"{self._path}: {error}; it is not used", stacklevel=5)
        sizes = [level.size for level in found]
        usable, others = usable_levels(sizes, [level.tile for level in found])
        for index in others:
            warnings.warn(f"{self._path}: {not_a_level(sizes[index], sizes[0])}", stacklevel=5)
        return [(found[index], size) for index, size in usable]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """See `Backend.read`."""
        try:
            with self._lock:
                return self._levels[level][0].read(x, y, width, height)
        except READ_ERRORS as error:
            raise SlideReadError(
                unreadable(self._path, level, (x, y, width, height), error)
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
