"""Images that need no network, for the tests of writers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from synthetic import paint_region

from zoomldm.writers.export import export
from zoomldm.writers.image import Block, Image, Level
from zoomldm.writers.writer import Writer

PROVENANCE = {"archive": "a.zldm", "slide": "patient-7.svs", "seed": 3, "archive_digest": "ab" * 32}
NAMES = ("20x", "10x", "5x", "2.5x", "1.25x")


@dataclass
class Painted:
    """A source of painted pixels that opens itself; `fail_at` is a read that fails."""

    width: int
    height: int
    count: int
    mpp: float = 0.5
    fail_at: int | None = None
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.reads = 0
        picture = Picture.fromarray(paint_region(self.width, self.height, tissue=0.7))
        self.pictures = [np.asarray(picture.reduce(2**k)) for k in range(self.count)]

    @property
    def image(self) -> Image:
        return Image(
            tuple(
                Level(
                    NAMES[k],
                    (p.shape[1], p.shape[0]),
                    self.mpp * 2**k,
                    "real" if k > 1 else "generated",
                )
                for k, p in enumerate(self.pictures)
            )
        )

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if self.reads == self.fail_at and self.error is not None:
            raise self.error
        self.reads += 1
        out = self.pictures[level][y : y + height, x : x + width]
        assert out.shape[:2] == (height, width)
        return out

    def notes(self, block: Block) -> dict[str, Any]:
        return {"tiles": block.tiles}

    @contextmanager
    def __call__(self) -> Iterator["Painted"]:
        yield self


def write(
    target: Path,
    writer: Writer,
    source: Painted,
    workers: int = 1,
    seed: int = 3,
    provenance: dict[str, Any] = PROVENANCE,
    **more: Any,
) -> Path:
    """Export a painted image."""
    writer.check(target, source.image)
    options = {"seed": seed}
    with export(target, source.image, writer, source, options, workers=workers, **more) as journal:
        writer.finish(journal.folder, source.image, target, provenance)
    return target


def content(target: Path) -> dict[str, bytes]:
    """All files of an output, by name."""
    found = [p for p in target.parent.rglob("*") if p.is_file()]
    return {str(p.relative_to(target.parent)): p.read_bytes() for p in sorted(found)}
