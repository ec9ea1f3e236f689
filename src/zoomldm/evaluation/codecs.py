"""Image codecs as the cheapest alternative: a slide coded at one level to a given size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ConfigError
from zoomldm.evaluation.readers import Enlarged
from zoomldm.geometry.levels import COUNT, NAMES, TILE, parse_level
from zoomldm.slides import Slide

Pixels = NDArray[np.uint8]
BLOCK = 512  # px: largest side of a block, which is coded as one image
_SAMPLE = 8  # blocks on which the quality is chosen
_SPEED = 6  # of AVIF: 4 gives 0.3 dB more at six times the time, 8 takes 0.2 dB and a quarter


@dataclass(frozen=True)
class Codec:
    """A lossy codec with integer qualities, worst to best.

    Attributes:
        name: avif, jpegxl, webp or jpeg.
        encode: (h, w, 3) uint8 and a quality to bytes.
        decode: bytes to (h, w, 3) uint8.
        qualities: lowest and highest quality.
    """

    name: str
    encode: Callable[[Pixels, int], bytes]
    decode: Callable[[bytes], Pixels]
    qualities: tuple[int, int]


def _avif(pixels: Pixels, quality: int) -> bytes:
    return bytes(
        imagecodecs.avif_encode(
            pixels, level=quality, speed=_SPEED, pixelformat="420", numthreads=1
        )
    )


def _jxl(pixels: Pixels, quality: int) -> bytes:
    # Beyond a distance of about 16, files grow again, because libjxl then halves the image.
    return bytes(
        imagecodecs.jpegxl_encode(
            pixels, distance=15 * 0.95 ** max(quality, 0), effort=7, numthreads=1
        )
    )


def _webp(pixels: Pixels, quality: int) -> bytes:
    return bytes(imagecodecs.webp_encode(pixels, level=quality, method=6, lossless=False))


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels, level=quality, subsampling="420", optimize=True))


def _plain(decode: Callable[[bytes], Any]) -> Callable[[bytes], Pixels]:
    return lambda data: np.ascontiguousarray(np.asarray(decode(data))[..., :3])


CODECS = {
    c.name: c
    for c in (
        Codec("avif", _avif, _plain(imagecodecs.avif_decode), (0, 90)),
        Codec("jpegxl", _jxl, _plain(imagecodecs.jpegxl_decode), (0, 90)),
        Codec("webp", _webp, _plain(imagecodecs.webp_decode), (0, 95)),
        Codec("jpeg", _jpeg, _plain(imagecodecs.jpeg8_decode), (1, 95)),
    )
}


def find_codec(name: str) -> Codec:
    """Return the codec of a given name.

    Raises:
        ConfigError: there is no such codec.
    """
    if name not in CODECS:
        raise ConfigError(f"codec {name!r} does not exist; expected {', '.join(CODECS)}")
    return CODECS[name]


def best_quality(size: Callable[[int], float], most: float, lowest: int, highest: int) -> int:
    """Find the highest quality with a `size` (rising) of at most `most`, or else `lowest`."""
    while lowest < highest:
        middle = (lowest + highest + 1) // 2
        if size(middle) <= most:
            lowest = middle
        else:
            highest = middle - 1
    return lowest


@dataclass(frozen=True)
class Setting:
    """How a slide is stored: codec, level and bytes per tissue tile.

    The codec `none` leaves the level uncoded and so shows the detail lost by the level alone.
    """

    codec: str
    level: int
    bytes_per_tile: float

    def __post_init__(self) -> None:
        if self.codec != "none":
            find_codec(self.codec)
        if not 0 <= self.level < COUNT:
            raise ConfigError(f"level {self.level} does not exist; expected 0 to {COUNT - 1}")
        if self.bytes_per_tile <= 0:
            raise ConfigError(f"{self.bytes_per_tile} bytes a tile; expected more than 0")

    def __str__(self) -> str:
        if self.codec == "none":
            return f"{NAMES[self.level]} as it is"
        return f"{self.codec} {NAMES[self.level]}, {self.bytes_per_tile:.0f} bytes"


class CodedSlide(Enlarged):
    """A slide coded at one level, readable at every level.

    Blocks of up to 512 px that hold tissue are coded; outside tissue tiles they are white, like a
    tissue-only base layer. All blocks have the same quality: the highest that stays within the
    requested bytes on up to eight blocks spread over the slide, or the lowest if none does.
    Blocks are coded when they are read.

    Args:
        slide: the slide; must stay open.
        mask: (rows, cols) its tissue tiles.
        setting: codec, level and bytes.

    Attributes:
        quality: quality used.
        bytes_per_tile: bytes per tissue tile on the blocks used to choose the quality.
        reached: whether that is within the requested bytes.
    """

    def __init__(self, slide: Slide, mask: NDArray[np.bool_], setting: Setting) -> None:
        super().__init__(self._pixels, setting.level, slide.size)
        self.setting = setting
        self._slide, self._mask = slide, mask
        self._tile = TILE >> setting.level
        self._side = max(1, BLOCK // self._tile)  # tiles
        self._codec = None if setting.codec == "none" else find_codec(setting.codec)
        self._blocks: dict[tuple[int, int], Pixels] = {}
        self.quality, self.bytes_per_tile, self.reached = 0, float("nan"), True
        if self._codec is not None:
            self._find_quality(self._codec)

    def _places(self) -> list[tuple[int, int]]:
        rows, cols = np.nonzero(self._mask)
        places = zip(rows // self._side, cols // self._side, strict=True)
        return sorted({(int(row), int(col)) for row, col in places})

    def _find_quality(self, codec: Codec) -> None:
        places = self._places()
        if not places:
            raise ConfigError(f"{self._slide.path}: no tissue to code")
        chosen = np.linspace(0, len(places) - 1, min(_SAMPLE, len(places))).astype(int)
        blocks = [self._block(*places[i]) for i in chosen]
        tiles = sum(int(self._tissue(*places[i]).sum()) for i in chosen)
        known: dict[int, float] = {}

        def size(quality: int) -> float:
            if quality not in known:
                known[quality] = sum(len(codec.encode(b, quality)) for b in blocks) / tiles
            return known[quality]

        self.quality = best_quality(size, self.setting.bytes_per_tile, *codec.qualities)
        self.bytes_per_tile = size(self.quality)
        self.reached = self.bytes_per_tile <= self.setting.bytes_per_tile

    def _tissue(self, row: int, col: int) -> NDArray[np.bool_]:
        s = self._side
        return self._mask[row * s : (row + 1) * s, col * s : (col + 1) * s]

    def _block(self, row: int, col: int) -> Pixels:
        """Read the original pixels of a block, white outside tissue tiles."""
        side = self._side * self._tile
        pixels = self._slide.read(self.setting.level, col * side, row * side, side, side)
        if self._tile:
            shown = np.zeros((self._side, self._side), bool)
            tissue = self._tissue(row, col)
            shown[: tissue.shape[0], : tissue.shape[1]] = tissue
            pixels[~shown.repeat(self._tile, 0).repeat(self._tile, 1)] = 255
        return pixels

    def _decoded(self, row: int, col: int) -> Pixels:
        if (row, col) not in self._blocks:
            block = self._block(row, col)
            if self._codec is not None and self._tissue(row, col).any():
                block = self._codec.decode(self._codec.encode(block, self.quality))
            self._blocks[row, col] = block
        return self._blocks[row, col]

    def _pixels(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Read pixels of the stored level; white outside the slide."""
        out = np.full((height, width, 3), 255, np.uint8)
        side = self._side * self._tile
        full_w, full_h = self.size(self.setting.level)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, full_w), min(y + height, full_h)
        if x0 >= x1 or y0 >= y1:
            return out
        for row in range(y0 // side, -(-y1 // side)):
            for col in range(x0 // side, -(-x1 // side)):
                top, left = max(y0, row * side), max(x0, col * side)
                bottom, right = min(y1, (row + 1) * side), min(x1, (col + 1) * side)
                out[top - y : bottom - y, left - x : right - x] = self._decoded(row, col)[
                    top - row * side : bottom - row * side, left - col * side : right - col * side
                ]
        return out


def parse_setting(text: str) -> Setting:
    """Parse a setting such as `avif:5x:235` or `none:5x`.

    Raises:
        ConfigError: the text is not a setting.
    """
    parts: Sequence[str] = text.split(":")
    if len(parts) == 2 and parts[0] == "none":
        parts = [*parts, "inf"]
    try:
        codec, level, count = parts
        return Setting(codec, parse_level(level), float(count))
    except ValueError as error:
        raise ConfigError(
            f"setting {text!r}: expected CODEC:LEVEL:BYTES, as avif:5x:235"
        ) from error
