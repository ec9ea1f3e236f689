"""Encoding of an archive's base layer: the slide at one level, chunk by chunk."""

import math
from dataclasses import dataclass, field

import numpy as np

from zoomldm.archive import ArchiveWriter
from zoomldm.archive.base import CHUNK, WHITE, count_tiles, halve, stored_chunks
from zoomldm.archive.image_codecs import (
    USUAL_LEVEL,
    encode_image,
    fill_chunk,
    is_lossless,
    quality_like,
    quick_size,
)
from zoomldm.archive.manifest import Base
from zoomldm.errors import ConfigError
from zoomldm.geometry.levels import BASE_MPP, COARSEST, NAMES, TILE, level_mpp, level_size
from zoomldm.slides import Slide, SlideReadError
from zoomldm.slides.ahead import FEW, in_order
from zoomldm.slides.tissue import VIEW_LEVEL, Tissue
from zoomldm.verbs import Progress

# Qualities here (QUALITIES, _TRIED, _SLOPE) are AVIF's at 5x; other codecs and levels take those
# that lose as much.
QUALITIES = (24, 60)  # range of the choice: below, nuclei vanish; above, bytes gain little
SAMPLE = 32  # chunks that a quality is chosen by
_CLOSELY = 4  # how many of these are encoded exactly
_TRIED = 42  # quality at which all of them are tried
_SLOPE = 0.04  # approximate slope of the logarithm of bytes over quality
_REST = 8_200  # approximate bytes of an archive besides embeddings and base layer ...
_MEMBER = 290  # ... and for each chunk
_SMALLEST = 16  # px: unreadable regions are halved down to this


def finest_level(slide: Slide) -> int:
    """The level nearest to the slide's mpp; finer ones would only be enlarged."""
    mpp = max(slide.mpp_x, slide.mpp_y)
    return min(max(round(math.log2(mpp / BASE_MPP)), 0), COARSEST)


def choose_level(slide: Slide, wanted: int | None) -> int:
    """The level of a slide's base layer: `wanted`, or by default 5x or the slide's own if coarser.

    Raises:
        ConfigError: the slide is coarser than `wanted`.
    """
    finest = finest_level(slide)
    if wanted is None:
        return max(USUAL_LEVEL, finest)
    if wanted < finest:
        raise ConfigError(
            f"{slide.path}: a base layer at {NAMES[wanted]} has {level_mpp(wanted):g} um/px, but "
            f"the slide only {max(slide.mpp_x, slide.mpp_y):g}; pass --base {NAMES[finest]} or "
            "coarser, or none"
        )
    return wanted


def add_base(
    slide: Slide,
    tissue: Tissue,
    writer: ArchiveWriter,
    level: int,
    codec: str,
    quality: int | None,
    progress: Progress,
    ratio: float | None = None,
) -> None:
    """Read, encode and store the chunks that tissue touches; unreadable regions are white.

    Where no chunk is stored, the base layer has the colour of the slide's glass: the median,
    channel by channel, of all stored px outside tissue tiles, white if there are none.

    Args:
        slide: an open slide.
        tissue: its tissue; its view is used as the image if it has the same level.
        writer: the writer of the slide's archive.
        level: 0 to 7.
        codec: codec of the chunks.
        quality: codec quality, None for the codec's default.
        progress: called as chunks are done.
        ratio: choose the quality so that the slide's file is this many times the archive's size;
            the embeddings must have been added.
    """
    seen = Chosen(quality)
    if ratio is not None:
        seen = choose_quality(slide, tissue, writer, level, codec, ratio)
        quality = seen.quality
    base = writer.start_base(level, codec, quality, ratio=ratio)
    chunks, what = stored_chunks(base, tissue.mask), f"storing the slide at {NAMES[level]}"
    glass = np.zeros((3, 256), np.int64)

    def coded(place: tuple[int, int]) -> tuple[bytes, np.ndarray]:
        pixels = seen.pixels.pop(place, None)
        if pixels is None:
            pixels = _chunk(slide, tissue, base, *place)
        data = seen.coded.pop(place, None)
        if data is None:
            data = encode_image(fill_chunk(pixels, base.chunk), codec, base.quality)
        return data, _glass(pixels, tissue.mask, base, *place)

    for done, ((row, col), (data, counts)) in enumerate(in_order(coded, chunks, FEW), 1):
        writer.add_base_chunk(row, col, data)
        glass += counts
        progress(what, done, len(chunks))
    if glass.any():
        r, g, b = (int(np.searchsorted(sums, sums[-1] / 2)) for sums in glass.cumsum(1))
        writer.set_base_background((r, g, b))


def _glass(pixels: np.ndarray, mask: np.ndarray, base: Base, row: int, col: int) -> np.ndarray:
    """Histograms (3, 256) of a chunk's px outside tissue tiles."""
    side = base.chunk << base.level
    h, w = pixels.shape[:2]
    rows, cols = (
        ((first * side + (np.arange(n) << base.level)) // TILE).clip(max=limit - 1)
        for first, n, limit in zip((row, col), (h, w), mask.shape, strict=True)
    )
    outside = pixels[~mask[rows[:, None], cols]]
    return np.stack([np.bincount(channel, minlength=256) for channel in outside.T])


@dataclass
class Chosen:
    """A chosen quality, with the chunks read and encoded while choosing it, 32 at most.

    Attributes:
        quality: codec quality.
        pixels: pixels of chunks, by row and column.
        coded: encoded chunks at that quality, by row and column.
    """

    quality: int | None
    pixels: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    coded: dict[tuple[int, int], bytes] = field(default_factory=dict)


def choose_quality(
    slide: Slide, tissue: Tissue, writer: ArchiveWriter, level: int, codec: str, ratio: float
) -> Chosen:
    """The quality at which the whole archive is nearest to 1/ratio of the slide's file.

    It loses no more than AVIF at 5x of 24 and no less than that of 60.

    Chunks are sorted by their tissue and split into groups of equal size; one in the middle of each
    represents its group. Their approximate bytes at one quality give an estimate of the wanted
    quality. The largest few are then encoded at that quality, which corrects bytes and quality.
    """
    width, height = level_size(*slide.size, level)
    base = Base(level=level, codec=codec, quality=None, width=width, height=height, chunk=CHUNK)
    chunks = stored_chunks(base, tissue.mask)
    tiles = [count_tiles(base, tissue.mask, *chunk) for chunk in chunks]
    order = sorted(range(len(chunks)), key=lambda i: (tiles[i], i))
    rest = _REST + _MEMBER * len(chunks)
    wanted = slide.file_bytes / ratio - writer.embedding_bytes() - rest
    if not chunks or wanted <= 0:
        return Chosen(quality_like(codec, QUALITIES[0], level))
    groups = np.array_split(np.array(order), min(SAMPLE, len(order)))
    middles = [(len(group) - k % 2) // 2 for k, group in enumerate(groups)]  # alternating if even
    places = [chunks[int(group[i])] for group, i in zip(groups, middles, strict=True)]

    trial = quality_like(codec, _TRIED, level)

    def tried(place: tuple[int, int]) -> tuple[int, np.ndarray]:
        pixels = _chunk(slide, tissue, base, *place)
        return quick_size(fill_chunk(pixels, base.chunk), codec, trial), pixels

    seen = dict(in_order(tried, places, FEW))
    sizes = [seen[place][0] for place in places]
    total = float(sum(len(group) * size for group, size in zip(groups, sizes, strict=True)))
    near = round(_within(_TRIED + math.log(wanted / total) / _SLOPE))
    first = quality_like(codec, near, level)
    largest = sorted(range(len(places)), key=lambda k: (sizes[k], k))[-_CLOSELY:]

    def coded(k: int) -> bytes:
        return encode_image(fill_chunk(seen[places[k]][1], base.chunk), codec, first)

    exact = {places[k]: data for k, data in in_order(coded, largest, FEW)}
    total *= sum(map(len, exact.values())) / sum(sizes[k] for k in largest)
    quality = quality_like(codec, _within(near + math.log(wanted / total) / _SLOPE), level)
    pixels = {place: one for place, (_, one) in seen.items()}
    return Chosen(quality, pixels, exact if quality == first else {})


def _within(quality: float) -> float:
    return min(max(quality, QUALITIES[0]), QUALITIES[1])


def _chunk(slide: Slide, tissue: Tissue, base: Base, row: int, col: int) -> np.ndarray:
    """Pixels (h, w, 3) of a chunk, cropped at the slide's edge.

    Scanners' coarse levels are often JPEGs made of JPEGs, without much of the fine colour. Base
    layers for training are the truth that a denoiser learns, and coarser ones are matched pixel by
    pixel by what is generated under them, so their tissue is averaged from 20x. (A lossy one at 5x
    costs that colour anyway, and the denoiser restores it.)
    """
    out = _stored(slide, tissue, base, row, col)
    if base.level and (base.level > USUAL_LEVEL or is_lossless(base.codec)):
        _average_tissue(slide, tissue.mask, base, out, row, col)
    return out


def _average_tissue(
    slide: Slide, mask: np.ndarray, base: Base, out: np.ndarray, row: int, col: int
) -> None:
    """Replace a chunk's tissue tiles by those of 20x, averaged; unreadable ones stay."""
    level, side = base.level, TILE >> base.level  # of a tile
    x, y = col * base.chunk, row * base.chunk
    wide, high = ((n >> level) - at for n, at in zip(slide.size, (x, y), strict=True))  # whole px
    rows, cols = (
        range(start // side, -(-(start + n) // side))
        for start, n in zip((y, x), out.shape[:2], strict=True)
    )
    for r in rows:
        spans = [(cols.start + a, b - a) for a, b in _runs(mask[r, cols.start : cols.stop])]
        while spans:
            first, count = spans.pop()
            try:
                fine = slide.read(0, first * TILE, r * TILE, count * TILE, TILE)
            except SlideReadError:
                if count > 1:  # down to the tile that can't be read
                    half = count // 2
                    spans += [(first, half), (first + half, count - half)]
                continue
            top, left = r * side - y, first * side - x
            box = np.s_[top : min(top + side, high), left : min(left + count * side, wide)]
            part = out[box]
            part[:] = halve(fine, level)[: part.shape[0], : part.shape[1]]


def _runs(wanted: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of True in a row."""
    edges = np.flatnonzero(np.diff(np.pad(wanted.astype(np.int8), 1))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _stored(slide: Slide, tissue: Tissue, base: Base, row: int, col: int) -> np.ndarray:
    """Pixels of a chunk as the slide's own levels show them."""
    x, y = col * base.chunk, row * base.chunk
    w, h = min(base.chunk, base.width - x), min(base.chunk, base.height - y)
    if base.level == VIEW_LEVEL and tissue.view is not None:
        return tissue.view[y : y + h, x : x + w].copy()
    out = np.full((h, w, 3), WHITE, np.uint8)

    def fill(left: int, top: int, wide: int, high: int) -> None:
        try:
            box = np.s_[top : top + high, left : left + wide]
            out[box] = slide.read(base.level, x + left, y + top, wide, high)
        except SlideReadError:
            if wide > high and wide > _SMALLEST:
                fill(left, top, wide // 2, high)
                fill(left + wide // 2, top, wide - wide // 2, high)
            elif high > _SMALLEST:
                fill(left, top, wide, high // 2)
                fill(left, top + high // 2, wide, high - high // 2)

    fill(0, 0, w, h)
    return out
