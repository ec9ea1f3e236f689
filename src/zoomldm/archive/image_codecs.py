"""Pixels as image files: the codecs of a base layer, provided by imagecodecs."""

from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import ArchiveError, ConfigError

Pixels = NDArray[np.uint8]

USUAL_LEVEL = 2  # 5x: level of base layers that denoisers are trained on
OCTAVE = 23.0  # quality of AVIF that makes up for a level coarser by one


@dataclass(frozen=True)
class _Codec:
    """One kind of image file.

    Attributes:
        module: its name in imagecodecs, upper case.
        quality: default quality for `encode`; None if the codec is lossless.
        encode: (pixels, quality) to the file's bytes.
        quick: the same, faster and with about as many bytes; None for `encode`.
        as_avif: qualities, rising, and those of AVIF that lose as much.
    """

    module: str
    quality: int | None
    encode: Callable[[Pixels, int], bytes | bytearray]
    quick: Callable[[Pixels, int], bytes | bytearray] | None = None
    as_avif: tuple[tuple[float, float], ...] = ((0, 0), (100, 100))

    @property
    def available(self) -> bool:
        return bool(getattr(getattr(imagecodecs, self.module, None), "available", False))


def jpegxl_distance(quality: int) -> float:
    """Convert quality (1 to 100) to Butteraugli distance (0 is lossless), as libjxl does."""
    if quality >= 100:
        return 0.0
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


# One thread each: bytes must not depend on the machine, and chunks are encoded in parallel.
_CODECS = {
    "avif": _Codec(
        "AVIF",
        37,
        lambda p, q: imagecodecs.avif_encode(p, level=q, speed=6, pixelformat="420", numthreads=1),
        lambda p, q: imagecodecs.avif_encode(p, level=q, speed=9, pixelformat="420", numthreads=1),
    ),
    "jpegxl": _Codec(
        "JPEGXL",
        50,
        lambda p, q: imagecodecs.jpegxl_encode(p, distance=jpegxl_distance(q), numthreads=1),
        as_avif=((10, 9), (20, 20.5), (30, 29), (50, 38.5), (70, 52), (90, 75.5), (100, 100)),
    ),
    "webp": _Codec(
        "WEBP",
        30,
        lambda p, q: imagecodecs.webp_encode(p, level=q, lossless=False, numthreads=1),
        as_avif=((1, 20.5), (5, 29), (10, 36), (30, 50), (75, 67.5), (90, 88), (100, 100)),
    ),
    "jpeg": _Codec(
        "JPEG8",
        40,
        lambda p, q: imagecodecs.jpeg8_encode(p, level=q, subsampling="420", optimize=True),
        as_avif=((10, 20.5), (20, 32.5), (40, 43), (70, 53.5), (80, 60.5), (90, 72.5), (100, 100)),
    ),
    "png": _Codec("PNG", None, lambda p, _: imagecodecs.png_encode(p, level=6)),
}
CODECS = tuple(_CODECS)


def find_codec(codec: str) -> _Codec:
    """Find a codec by name.

    Raises:
        ConfigError: no such codec, or this installation's imagecodecs lacks it.
    """
    if codec not in _CODECS:
        raise ConfigError(f"base codec {codec!r} does not exist; codecs are {', '.join(CODECS)}")
    if not _CODECS[codec].available:
        raise ConfigError(
            f"this installation's imagecodecs {imagecodecs.__version__} lacks {codec}; install "
            "imagecodecs from its wheel, or take another of " + ", ".join(CODECS)
        )
    return _CODECS[codec]


def resolve_quality(codec: str, quality: int | None) -> int | None:
    """The quality to use with a codec, 1 to 100; None for a lossless one.

    Raises:
        ConfigError: no such codec, a quality out of range, or one given for a lossless codec.
    """
    default = find_codec(codec).quality
    if quality is None:
        return default
    if default is None:
        raise ConfigError(f"base quality {quality} with {codec}, which is lossless; leave it out")
    if not 1 <= quality <= 100:
        raise ConfigError(f"base quality {quality}; expected 1 to 100")
    return quality


def is_lossless(codec: str) -> bool:
    """Whether a codec keeps every pixel; see `find_codec` for errors."""
    return find_codec(codec).quality is None


def _scale(codec: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Qualities of a codec and those of AVIF; of an unknown one, which can't be read, its own."""
    own, known = np.array(_CODECS.get(codec, _CODECS["avif"]).as_avif, np.float64).T
    return own, known


def avif_quality(codec: str, quality: float, level: int = USUAL_LEVEL) -> float:
    """The quality of AVIF at 5x that loses as much of tissue, 0 to 100.

    By the mean squared error of an octave denoiser's input over four slides at 5x, chunk by chunk
    (benchmarks/codec_qualities.py); numbers between are interpolated, lower ones taken as the
    lowest. At other levels, from 10x to 1.25x, errors are compared after averaging down to the
    coarser of the two (three slides); they are within 7 of OCTAVE an octave.

    Args:
        codec: codec of a base layer.
        quality: its quality.
        level: its level.

    Examples:
        >>> avif_quality("webp", 20), avif_quality("avif", 37), avif_quality("avif", 70, level=3)
        (43.0, 37.0, 47.0)
    """
    own, known = _scale(codec)
    at_level = float(np.interp(quality, own, known))
    return min(max(at_level - OCTAVE * (level - USUAL_LEVEL), 0.0), 100.0)


def quality_like(codec: str, avif: float, level: int = USUAL_LEVEL) -> int:
    """The quality, 1 to 100, with which a codec loses as much as AVIF at 5x; see `avif_quality`.

    Examples:
        >>> quality_like("jpeg", 43), quality_like("avif", 43, level=3)
        (40, 66)
    """
    own, known = _scale(codec)
    at_level = avif + OCTAVE * (level - USUAL_LEVEL)
    return max(round(float(np.interp(at_level, known, own))), 1)


def fill_chunk(pixels: Pixels, side: int) -> Pixels:
    """Pad pixels (h, w, 3) at a slide's edge to (side, side, 3).

    The last row and column are repeated, which costs fewer bytes than an edge to white. Readers
    crop the padding.
    """
    high, wide = pixels.shape[:2]
    if (high, wide) == (side, side):
        return pixels
    return np.pad(pixels, ((0, side - high), (0, side - wide), (0, 0)), mode="edge")


def encode_image(pixels: Pixels, codec: str, quality: int | None) -> bytes:
    """Encode pixels (h, w, 3), uint8 sRGB, as an image file; same pixels, same bytes."""
    exact = np.ascontiguousarray(pixels, np.uint8)
    return bytes(find_codec(codec).encode(exact, quality or 0))


def quick_size(pixels: Pixels, codec: str, quality: int) -> int:
    """Estimate an image file's bytes faster than by encoding it (AVIF: within a few per cent)."""
    found, exact = find_codec(codec), np.ascontiguousarray(pixels, np.uint8)
    return len((found.quick or found.encode)(exact, quality))


def decode_image(data: bytes, codec: str, shape: tuple[int, int, int], what: str) -> Pixels:
    """Decode an image file of exactly this shape (h, w, 3) to read-only pixels.

    Decoders write into a buffer of that size: a forged file can't allocate more.

    Raises:
        ArchiveError: it can't be decoded, or this installation lacks the codec; `what` names it.
    """
    if codec not in _CODECS or not _CODECS[codec].available:
        known = ", ".join(name for name in CODECS if _CODECS[name].available)
        raise ArchiveError(
            f"{what} is coded as {codec!r}; this installation reads {known}; update zoomldm and "
            "imagecodecs"
        )
    out = np.empty(shape, np.uint8)
    try:
        getattr(imagecodecs, f"{_CODECS[codec].module.lower()}_decode")(data, out=out)
    except (imagecodecs.DelayedImportError, RuntimeError, ValueError, TypeError) as error:
        raise ArchiveError(f"{what} can't be decoded ({error})") from error
    out.flags.writeable = False
    return out
