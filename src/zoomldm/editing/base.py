"""The base layer of an archive that receives tissue from another one."""

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive, ArchiveWriter
from zoomldm.archive.base import stored_chunks
from zoomldm.archive.image_codecs import encode_image, fill_chunk
from zoomldm.archive.manifest import Base
from zoomldm.editing.places import Block
from zoomldm.geometry.levels import NAMES
from zoomldm.verbs import Progress


def spliced_base(archive: Archive, source: Archive) -> tuple[Base | None, str]:
    """The base layer that both archives can share, or None, and a description of the outcome.

    Real pixels can be placed beside real pixels if both layers have the same level and codec.
    """
    own, other = archive.manifest.base, source.manifest.base
    if own is None:
        return None, "none: the archive has none in chunks"
    if other is None:
        return None, f"dropped: {source.path.name} has none in chunks"
    if (own.level, own.codec) != (other.level, other.codec):
        return None, (
            f"dropped: it is {NAMES[own.level]} {own.codec}, that of {source.path.name} is "
            f"{NAMES[other.level]} {other.codec}"
        )
    return own, f"kept: {NAMES[own.level]} {own.codec}, real pixels of both"


def add_spliced(
    writer: ArchiveWriter,
    archive: Archive,
    source: Archive,
    target: Block,
    taken: Block,
    mask: NDArray[np.bool_],
    progress: Progress,
) -> tuple[int, int]:
    """Store the base layer, with `taken` of `source` placed on `target`.

    Chunks that the target does not touch keep their bytes; the others are encoded again.

    Args:
        writer: the writer of the edited archive.
        archive: the archive being edited.
        source: the archive that the real pixels come from.
        target: tiles to replace.
        taken: tiles of `source`, equally many.
        mask: tissue of the edited archive.
        progress: called as chunks are done.

    Returns:
        Total number of chunks, and the number encoded again.
    """
    base, own, other = archive.manifest.base, archive.base, source.base
    assert base is not None and own is not None and other is not None
    writer.start_base(base.level, base.codec, base.quality, base.chunk)
    if base.background:
        writer.set_base_background(base.background)
    left, top, wide, high = (n >> base.level for n in target.window)
    from_x, from_y = (n >> base.level for n in taken.window[:2])
    chunks, again = stored_chunks(base, mask), 0
    for done, (row, col) in enumerate(chunks):
        x, y = col * base.chunk, row * base.chunk
        w, h = min(base.chunk, base.width - x), min(base.chunk, base.height - y)
        x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, left + wide), min(y + h, top + high)
        touched = x0 < x1 and y0 < y1
        data = None if touched else archive.base_file(row, col)
        if data is None:
            pixels = own.read(x, y, w, h)
            if touched:
                part = other.read(x0 - left + from_x, y0 - top + from_y, x1 - x0, y1 - y0)
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = part
            filled = fill_chunk(pixels, base.chunk)
            data = encode_image(filled, base.codec, base.quality)
            again += 1
        writer.add_base_chunk(row, col, data)
        progress("base layer", done + 1, len(chunks))
    return len(chunks), again
