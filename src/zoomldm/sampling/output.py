"""Writes an image that isn't an archive's to a file: a PNG, or any multi-level format."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Images
from PIL.PngImagePlugin import PngInfo

from zoomldm.archive.base import halve
from zoomldm.errors import ConfigError, RegionError
from zoomldm.files import atomic_path, claim
from zoomldm.geometry.levels import COUNT, NAMES, TILE, level_mpp
from zoomldm.verbs import Progress
from zoomldm.writers.export import export
from zoomldm.writers.image import Block, Image, Level
from zoomldm.writers.registry import PNG, ending, unknown, writer_for

PNG_PIXELS = 64_000_000
_STRIP = 1 << 22  # px averaged at a time

Read = Callable[[int, int, int, int], NDArray[np.uint8]]


class Levels:
    """Levels of an image; the coarser ones are averages of the finest.

    Args:
        read: returns a region (x, y, width, height) inside the finest level, (height, width, 3).
        size: width and height of the finest level.
        finest: the finest level, 0 to 7.
    """

    def __init__(self, read: Read, size: tuple[int, int], finest: int) -> None:
        self._read, self.size = read, size
        levels = []
        for level in range(finest, COUNT):
            shown = tuple(-(-n >> (level - finest)) for n in size)
            levels.append(Level(NAMES[level], shown, level_mpp(level), "generated"))  # type: ignore
            if max(shown) <= TILE:
                break
        self.image = Image(tuple(levels))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See `Source`; the image's last pixels are repeated beyond it before averaging."""
        if level == 0:
            return self._read(x, y, width, height)
        side = 1 << level
        out = np.empty((height, width, 3), np.uint8)
        rows = max(1, _STRIP // (width * side * side))
        for top in range(0, height, rows):
            high = min(rows, height - top)
            left, upper = x * side, (y + top) * side
            right, lower = (
                min(a, n)
                for a, n in zip((left + width * side, upper + high * side), self.size, strict=True)
            )
            part = self._read(left, upper, right - left, lower - upper)
            short = high * side - part.shape[0], width * side - part.shape[1]
            whole = np.pad(part, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
            out[top : top + high] = halve(whole, level)
        return out

    def notes(self, block: Block) -> dict[str, Any]:
        """See `Source`."""
        return {}


def check_output(target: Path, size: tuple[int, int]) -> None:
    """Refuse an unknown ending, or a .png of too many pixels.

    Raises:
        ConfigError: an unknown ending.
        RegionError: over 64 megapixels in a .png.
    """
    found = ending(target)
    if found is None:
        raise ConfigError(unknown(target))
    if found == PNG and size[0] * size[1] > PNG_PIXELS:
        raise RegionError(
            f"{target}: would be {size[0]} x {size[1]} px, "
            f"{size[0] * size[1] / 1e6:.0f} megapixels, over the {PNG_PIXELS // 10**6} that a "
            ".png may have; give a .tif"
        )


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Lock the output for this process, whether it is a file or a folder."""
    note = target.with_name(target.name + ".json")
    with claim(target if not target.is_dir() else note, note):
        yield


def write_levels(
    target: Path, levels: Levels, provenance: dict[str, Any], progress: Progress
) -> None:
    """Write an image, with its provenance inside it and in the same name + `.json`.

    Args:
        target: its ending determines the format.
        levels: the image.
        provenance: everything that determines the pixels, plain JSON values.
        progress: called with `tiles`.

    Raises:
        TargetError: the image can't be written.
    """
    check_output(target, levels.size)
    if ending(target) == PNG:
        info = PngInfo()
        info.add_text("Software", "zoomldm")
        info.add_itxt("zoomldm", json.dumps(provenance, separators=(",", ":")))
        image = Images.fromarray(levels.read(0, 0, 0, *levels.size))
        dots = (25_400 / levels.image.levels[0].mpp,) * 2
        with atomic_path(target) as part:
            image.save(part, format="PNG", pnginfo=info, dpi=dots)
    else:
        writer = writer_for(target)
        writer.check(target, levels.image)
        with export(
            target,
            levels.image,
            writer,
            lambda: _opened(levels),
            provenance,
            progress=lambda done, total: progress("tiles", done, total),
        ) as journal:
            writer.finish(journal.folder, levels.image, target, provenance)
    with atomic_path(target.with_name(target.name + ".json")) as note:
        note.write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _opened(levels: Levels) -> Iterator[Levels]:
    yield levels
