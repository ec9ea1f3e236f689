"""A whole-slide image, read at the exact mpp of any level."""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import openslide
from openslide.lowlevel import OpenSlideError
from PIL import Image

from zoomldm.errors import SlideError
from zoomldm.geometry import levels
from zoomldm.slides.backend import Backend, one_line
from zoomldm.slides.colour import Colour, slide_colour
from zoomldm.slides.content import content_digest
from zoomldm.slides.openslide_backend import OpenSlideBackend
from zoomldm.slides.scale import find_scale, warn_of_scale
from zoomldm.slides.stored_levels import stored_downsample
from zoomldm.slides.tifffile_backend import TifffileBackend

CACHE_BYTES = 64 << 20
READ_PIXELS = 9 << 20  # stored px read at once before a box reduction
_PIECE = 5 << 17  # px resampled at once: small pieces take a fifth less time than large ones
_PIECE_WIDTH = 4096
REDUCING_GAP = 2.0  # as in Pillow's resize: box-reduce while the rest still shrinks by 2 or more
_STRIP = 1024  # native rows decoded at once when a level is reduced
_FINER = 1.001  # sizes and resolution tags are rounded: an mpp within 0.1 % is the same
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class _Opening:
    """One lock for opening files, so that concurrent first reads of a slide open it once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_OPENING = _Opening()
if hasattr(os, "register_at_fork"):
    # A lock held by another thread during the fork would stay locked in the child.
    os.register_at_fork(after_in_child=_OPENING.__init__)


@dataclass(frozen=True)
class _Plan:
    """How a level is computed from a stored level.

    Attributes:
        stored: index of the stored level.
        step: stored px per px of the level (x, y).
        factor: integer factors (x, y) of the initial box reduction, aligned to pixel (0, 0).
        canvas: size of the whole level in px of the stored level; beyond the stored pixels it is
            white.
    """

    stored: int
    step: tuple[float, float]
    factor: tuple[int, int]
    canvas: tuple[int, int]


def _refusal_reason(path: Path) -> str | None:
    """Why a path can't be a slide at all, or None."""
    if path.is_dir():
        return "is a folder; expected a slide file"
    if not path.exists():
        return "no such file; expected a slide"
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "is empty (0 bytes); expected a slide"
    except OSError as error:
        return f"can't be read ({error.strerror}); expected a slide"
    return None


def _open_backend(path: Path) -> Backend:
    """Open a slide with OpenSlide, or with tifffile if OpenSlide can't read a TIFF as it should.

    Raises:
        SlideError: neither opens it.
    """
    wrong = _refusal_reason(path)
    if wrong:
        raise SlideError(f"{path}: {wrong}")
    try:
        backend = OpenSlideBackend(path, CACHE_BYTES)
    except OpenSlideError as error:
        unknown = isinstance(error, openslide.OpenSlideUnsupportedFormatError)
        reason = "unknown format" if unknown else one_line(error).replace(f"Reading {path}: ", "")
    else:
        if backend.misread is None:
            return backend
        backend.close()
        try:
            return TifffileBackend(path, CACHE_BYTES)
        except SlideError as error:
            raise SlideError(f"{path}: {error} ({backend.misread})") from error
    with path.open("rb") as file:
        start = file.read(4)
    if start in _TIFF_STARTS:
        try:
            return TifffileBackend(path, CACHE_BYTES)
        except SlideError as error:
            raise SlideError(
                f"{path}: not a slide that can be read (OpenSlide: {reason}; as TIFF: {error})"
            ) from error
    if unknown:
        raise SlideError(
            f"{path}: not a slide (first bytes {start.hex(' ')}); expected a format that OpenSlide "
            f"reads, OME-TIFF or TIFF"
        )
    raise SlideError(f"{path}: OpenSlide can't open it ({reason}); the file is damaged or partial")


class Slide:
    """A slide; regions are read at a level, in pixels of that level.

    Level k is resampled to exactly 0.5 * 2**k mpp from the nearest stored level that is at least
    as fine (the finest if none is). A Slide can be pickled and used after a fork: each process
    opens the file itself at its first read. Reading from several threads is safe.

    Attributes:
        path: the file.
        backend: `openslide` or `tifffile`.
        vendor: format, as named by OpenSlide.
        native_size: width, height (px) of the finest stored level.
        mpp_x, mpp_y: micrometres per pixel of the finest stored level.
        mpp_source: their source: `option`, `openslide.mpp`, `aperio.MPP`, `ome` or
            `tiff resolution`.
        size: width, height (px) of the 0.5 mpp raster.
        grid: rows and columns of tiles.
        file_bytes: size of the file.
        icc: description of the ICC profile used to convert colours to sRGB, or None.
        properties: vendor, objective power and quickhash, if known.
    """

    def __init__(self, path: Path | str, mpp: float | None = None, icc: bool = True) -> None:
        """Open the file; see `open_slide`."""
        self.path = Path(path)
        self._use_icc = icc
        self._backend: Backend | None = None
        self._colour: Colour | None = None
        self._closed = False
        backend = self._opened()
        try:
            scale = find_scale(self.path, backend.scales, mpp)
        except SlideError:
            self.close()
            raise
        aperio = any(s == "aperio.MPP" and not math.isnan(x) for s, x, _ in backend.scales)
        warn_of_scale(self.path, scale, backend.properties.get("objective_power"), aperio)
        self.backend = backend.name
        self.vendor = backend.vendor
        self.properties = dict(backend.properties)
        self.native_size = backend.level_sizes[0]
        self.level_sizes = list(backend.level_sizes)
        self.mpp_x, self.mpp_y, self.mpp_source = scale.mpp_x, scale.mpp_y, scale.source
        self.icc = self._colour.description if self._colour else None
        self.size = levels.raster_size(*self.native_size, self.mpp_x, self.mpp_y)
        self.grid = levels.grid_shape(*self.size)
        self.file_bytes = self.path.stat().st_size
        self._plans = [self._plan(level) for level in range(levels.COUNT)]

    def _opened(self) -> Backend:
        """This process's backend."""
        if self._closed:
            raise SlideError(f"{self.path}: was closed; open it again")
        if self._backend is None or self._pid != os.getpid():
            with _OPENING.lock:
                if self._backend is None or self._pid != os.getpid():
                    backend = _open_backend(self.path)
                    self._colour = slide_colour(self.path, backend.icc if self._use_icc else None)
                    self._pid = os.getpid()
                    self._backend = backend  # last: another thread may already be reading
        return self._backend

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_backend": None, "_colour": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """Close the file; later reads raise an error."""
        if self._backend is not None and self._pid == os.getpid():
            self._backend.close()
        self._backend = None
        self._closed = True

    def content(self) -> str:
        """A digest of the file's content; see `zoomldm.slides.content`.

        Raises:
            SlideError: the file can't be read.
        """
        try:
            return content_digest(self.path, self.vendor, self.properties.get("quickhash"))
        except OSError as error:
            raise SlideError(f"{self.path}: can't be read ({error.strerror})") from error

    def level_size(self, level: int) -> tuple[int, int]:
        """Width and height (px) of the slide at a level, rounded up."""
        return levels.level_size(*self.size, level)

    def _plan(self, level: int) -> _Plan:
        best = 0
        for index, stored in enumerate(self.level_sizes):
            down = stored_downsample(self.native_size, stored)
            mpp = max(self.mpp_x * down[0], self.mpp_y * down[1])
            if mpp <= levels.level_mpp(level) * _FINER:
                best = index
        down = stored_downsample(self.native_size, self.level_sizes[best])
        step_x, step_y = (
            2**level * native / (raster * shrunk)
            for native, raster, shrunk in zip(self.native_size, self.size, down, strict=True)
        )
        width, height = self.level_size(level)
        return _Plan(
            stored=best,
            step=(step_x, step_y),
            factor=(
                max(1, int(step_x / REDUCING_GAP + 1e-9)),
                max(1, int(step_y / REDUCING_GAP + 1e-9)),
            ),
            canvas=(math.ceil(width * step_x - 1e-6), math.ceil(height * step_y - 1e-6)),
        )

    def read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Read a region at a level; x, y, w, h are in pixels of that level.

        The result equals a crop of the whole stored level resampled at once (Pillow's bicubic with
        antialiasing), to 1/255. Transparent pixels and those outside the slide are white. Needs at
        most about 200 MB besides the result.

        Returns:
            uint8 (h, w, 3), sRGB.

        Raises:
            SlideReadError: the region can't be decoded; other regions still can.
        """
        if not 0 <= level < levels.COUNT:
            raise ValueError(f"level {level} is not in 0..{levels.COARSEST}")
        width, height = self.level_size(level)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if (x0, y0, x1, y1) == (x, y, x + w, y + h):
            out = np.empty((h, w, 3), np.uint8)
        else:
            out = np.full((h, w, 3), 255, np.uint8)
        if x0 < x1 and y0 < y1:
            for left, top, right, bottom in self._pieces(self._plans[level], x0, y0, x1, y1):
                piece = self._resampled(self._plans[level], left, top, right, bottom)
                out[top - y : bottom - y, left - x : right - x] = np.asarray(piece)
        return out

    def _pieces(
        self, plan: _Plan, x0: int, y0: int, x1: int, y1: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Boxes that make up the region, each small enough for the processor's cache."""
        pixels = _PIECE if plan.factor == (1, 1) else 4 * _PIECE
        across, down = plan.step[0] / plan.factor[0], plan.step[1] / plan.factor[1]
        cols = max(1, min(x1 - x0, int(_PIECE_WIDTH / across)))
        rows = max(1, int(pixels / (cols * across * down)))
        for top in range(y0, y1, rows):
            for left in range(x0, x1, cols):
                yield left, top, min(left + cols, x1), min(top + rows, y1)

    def _resampled(self, plan: _Plan, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
        spans = []
        for start, end, step, canvas, factor in zip(
            (x0, y0), (x1, y1), plan.step, plan.canvas, plan.factor, strict=True
        ):
            step, limit = step / factor, -(-canvas // factor)
            margin = 2 * max(1.0, step) + 1 if plan.step != (1.0, 1.0) else 0
            first = max(0, math.floor(start * step - margin))
            last = min(limit, math.ceil(end * step + margin))
            spans.append((first, last, start * step - first, min(end * step, limit) - first))
        (left, right, box_x0, box_x1), (top, bottom, box_y0, box_y1) = spans
        source = self._reduced(plan, left, top, right, bottom)
        if plan.step == (1.0, 1.0):
            return source.crop((round(box_x0), round(box_y0), round(box_x1), round(box_y1)))
        # Horizontally, then vertically: Pillow's own order depends on the shape of the piece.
        box = (box_x0, 0, min(box_x1, source.width), source.height)
        image = source.resize((x1 - x0, source.height), Image.Resampling.BICUBIC, box=box)
        box = (0, box_y0, image.width, min(box_y1, image.height))
        return image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)

    def _reduced(self, plan: _Plan, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
        """A box of the stored level after the box reduction, in px of the reduced level."""
        across, down = plan.factor
        if plan.factor == (1, 1):
            return self._pixels(plan.stored, x0, y0, x1, y1)
        rows = max(1, _STRIP // down)
        cols = max(1, READ_PIXELS // (rows * down) // across)
        out = Image.new("RGB", (x1 - x0, y1 - y0))
        for top in range(y0, y1, rows):
            bottom = min(top + rows, y1)
            for left in range(x0, x1, cols):
                right = min(left + cols, x1)
                native = self._pixels(
                    plan.stored,
                    left * across,
                    top * down,
                    min(right * across, plan.canvas[0]),
                    min(bottom * down, plan.canvas[1]),
                )
                out.paste(native.reduce(plan.factor), (left - x0, top - y0))
        return out

    def _pixels(self, stored: int, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
        """A box of a stored level as sRGB on white; outside the level it is white."""
        width, height = self.level_sizes[stored]
        right, bottom = min(x1, width), min(y1, height)
        if x0 >= right or y0 >= bottom:
            return Image.new("RGB", (x1 - x0, y1 - y0), "white")
        backend = self._opened()
        image = backend.read(stored, x0, y0, right - x0, bottom - y0)
        alpha = None
        if image.mode == "RGBA":
            alpha = image.getchannel("A")
            image = image.convert("RGB")
            lowest = alpha.getextrema()[0]
        if self._colour is not None:
            image = self._colour.apply(image)
        if alpha is not None and lowest != 255:
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        if (right, bottom) != (x1, y1):
            whole = Image.new("RGB", (x1 - x0, y1 - y0), "white")
            whole.paste(image)
            image = whole
        return image


def open_slide(path: Path | str, mpp: float | None = None, icc: bool = True) -> Slide:
    """Open a slide of any format that OpenSlide reads, OME-TIFF or plain TIFF.

    Args:
        path: the slide file.
        mpp: micrometres per pixel of the finest level, 0.05 to 5; None takes it from the slide.
        icc: convert colours to sRGB through the slide's ICC profile.

    Raises:
        SlideError: not a slide, or no plausible mpp known.

    Examples:
        >>> from zoomldm.slides import open_slide
        >>> with open_slide("slide.tif") as slide:
        ...     slide.size, slide.read(2, 0, 0, 200, 100).shape
        ((1000, 800), (100, 200, 3))
    """
    return Slide(path, mpp, icc)
