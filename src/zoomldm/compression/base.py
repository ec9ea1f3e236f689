"""The base layer on its way into an archive: the slide at one level, chunk by chunk."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from zoomldm.archive import ArchiveWriter
from zoomldm.archive.base import CHUNK, WHITE, count_tiles, stored_chunks
from zoomldm.archive.manifest import Base
from zoomldm.archive.pictures import encode_picture, fill_chunk
from zoomldm.errors import ConfigError
from zoomldm.geometry.levels import BASE_MPP, COARSEST, NAMES, level_mpp, level_size
from zoomldm.slides import Slide, SlideReadError
from zoomldm.slides.tissue import VIEW_LEVEL, Tissue
from zoomldm.verbs import Progress

DEFAULT_LEVEL = 2
QUALITIES = (24, 60)  # that are chosen from: below, nuclei go; above, bytes buy little
SAMPLE = 8  # chunks that a quality is chosen by
_TRIED = (30, 50)  # qualities that the sample is encoded at
_REST = 6_000  # bytes of an archive besides embeddings and base layer, about
THREADS = 2  # each holds what it reads of the slide, up to 200 MB, and one chunk
_SMALLEST = 16  # px: what can't be read is halved down to this


def finest_level(slide: Slide) -> int:
    """The level nearest to the slide's own mpp; finer ones would only be enlarged."""
    mpp = max(slide.mpp_x, slide.mpp_y)
    return min(max(round(math.log2(mpp / BASE_MPP)), 0), COARSEST)


def choose_level(slide: Slide, wanted: int | None) -> int:
    """The level of a slide's base layer: `wanted`, or else 5x where the slide is as fine as that.

    Raises:
        ConfigError: the slide is coarser than `wanted`.
    """
    finest = finest_level(slide)
    if wanted is None:
        return max(DEFAULT_LEVEL, finest)
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
    """Read, encode and store the chunks that tissue touches; what can't be read is white.

    Args:
        slide: an open slide.
        tissue: its tissue; its view serves as the image where it has the level.
        writer: of the slide's archive.
        level: 0 to 7.
        codec: of the chunks.
        quality: of the codec, None for its default.
        progress: called as chunks are done.
        ratio: choose the quality so that the slide's file is this many times the archive's; the
            embeddings must be there already.
    """
    if ratio is not None:
        quality = choose_quality(slide, tissue, writer, level, codec, ratio)
    facts = writer.start_base(level, codec, quality, ratio=ratio)
    chunks, what = stored_chunks(facts, tissue.mask), f"storing the slide at {NAMES[level]}"

    def coded(row: int, col: int) -> bytes:
        pixels = _chunk(slide, tissue, facts, row, col)
        return encode_picture(fill_chunk(pixels, facts.chunk), codec, facts.quality)

    for done, ((row, col), data) in enumerate(_in_order(coded, chunks), 1):
        writer.add_base_chunk(row, col, data)
        progress(what, done, len(chunks))


def choose_quality(
    slide: Slide, tissue: Tissue, writer: ArchiveWriter, level: int, codec: str, ratio: float
) -> int:
    """The quality, 24 to 60, at which the whole archive is just below 1/ratio of the slide's file.

    Chunks are sorted by their tissue and put into a few groups of as many; the middle one of each
    stands for its group and is encoded at two qualities. The logarithm of the bytes in all is
    nearly linear in quality in between and not far beyond.
    """
    width, height = level_size(*slide.size, level)
    facts = Base(level=level, codec=codec, quality=None, width=width, height=height, chunk=CHUNK)
    chunks = stored_chunks(facts, tissue.mask)
    tiles = [count_tiles(facts, tissue.mask, *chunk) for chunk in chunks]
    order = sorted(range(len(chunks)), key=lambda i: (tiles[i], i))
    wanted = slide.file_bytes / ratio - writer.embedding_bytes() - _REST
    if not chunks or wanted <= 0:
        return QUALITIES[0]
    sums = [0, 0]
    for group in np.array_split(np.array(order), min(SAMPLE, len(order))):
        place = chunks[int(group[len(group) // 2])]
        pixels = fill_chunk(_chunk(slide, tissue, facts, *place), facts.chunk)
        for k, quality in enumerate(_TRIED):
            sums[k] += len(group) * len(encode_picture(pixels, codec, quality))
    low, high = (math.log(n) for n in sums)
    slope = max(high - low, 1e-3) / (_TRIED[1] - _TRIED[0])
    found = _TRIED[0] + (math.log(wanted) - low) / slope
    return math.floor(min(max(found, QUALITIES[0]), QUALITIES[1]))  # rather too small


def _in_order(
    work: Callable[[int, int], bytes], chunks: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Each chunk with what `work` makes of it, a few of them at once."""
    pending: deque[tuple[tuple[int, int], Future[bytes]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in chunks:
            pending.append((chunk, pool.submit(work, *chunk)))
            if len(pending) > THREADS:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


def _chunk(slide: Slide, tissue: Tissue, facts: Base, row: int, col: int) -> np.ndarray:
    """Pixels (h, w, 3) of a chunk, cut off at the slide's edge."""
    x, y = col * facts.chunk, row * facts.chunk
    w, h = min(facts.chunk, facts.width - x), min(facts.chunk, facts.height - y)
    if facts.level == VIEW_LEVEL and tissue.view is not None:
        return tissue.view[y : y + h, x : x + w]
    out = np.full((h, w, 3), WHITE, np.uint8)

    def fill(left: int, top: int, wide: int, high: int) -> None:
        try:
            box = np.s_[top : top + high, left : left + wide]
            out[box] = slide.read(facts.level, x + left, y + top, wide, high)
        except SlideReadError:
            if wide > high and wide > _SMALLEST:
                fill(left, top, wide // 2, high)
                fill(left + wide // 2, top, wide - wide // 2, high)
            elif high > _SMALLEST:
                fill(left, top, wide, high // 2)
                fill(left, top + high // 2, wide, high - high // 2)

    fill(0, 0, w, h)
    return out
