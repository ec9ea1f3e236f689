"""What a viewer shows: pixels of a slide or an archive at the eight levels of one raster."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import Archive
from zoomldm.errors import ArchiveError, SlideError, ZoomLDMError
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import COUNT, NAMES, level_size
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.remote import ChangedError, MissingError, RemotePath
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.renderer import Renderer, source_digest
from zoomldm.slides.slide import Slide

SEEDS = 4  # renderers cached at once, one per seed
RENDERER_BYTES = 96 << 20
MOST_SEED = 2**32 - 1

Pixels = NDArray[np.uint8]


class GoneError(ZoomLDMError):
    """A file was replaced or removed while it was being shown."""


class ViewedImage(Protocol):
    """Pixels at levels 0 to 7 of a 0.5 mpp raster; reads from several threads are safe."""

    size: tuple[int, int]
    digest: str

    def is_real(self, level: int) -> bool:
        """Return whether a level's pixels are the slide's own, not generated."""
        ...

    def read(self, seed: int, level: int, x: int, y: int, w: int, h: int) -> Pixels:
        """Read a region in px of a level as (h, w, 3) uint8 sRGB; white outside."""
        ...

    def provenance(self, seed: int) -> dict[str, Any]:
        """Return what the pixels depend on."""
        ...

    def check(self) -> None:
        """Raise GoneError if the file is no longer the one that was opened."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@dataclass(frozen=True)
class _Seen:
    """State of a file when it was opened."""

    path: Path | RemotePath
    stamp: tuple[int, int, int] | None

    @classmethod
    def of(cls, path: Path | RemotePath) -> "_Seen":
        return cls(path, _stamp(path))

    def check(self, name: str) -> None:
        now = _stamp(self.path)
        if now != self.stamp:
            raise _gone(name, now)


def _gone(name: str, found: object) -> GoneError:
    how = "removed" if found is None or isinstance(found, MissingError) else "replaced"
    return GoneError(f"{name}: its file was {how} while it was shown; open it again")


def _stamp(path: Path | RemotePath) -> tuple[int, int, int] | None:
    if not isinstance(path, Path):
        return None  # URLs are not checked for every tile: a read detects changes
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class SlideImage:
    """A slide as it was scanned, at the exact mpp of each level.

    Args:
        slide: the slide, closed with this object.
        digest: digest of the file's content.
    """

    def __init__(self, slide: Slide, digest: str) -> None:
        self.slide, self.digest = slide, digest
        width, height = slide.size
        self.size = width, height
        self._seen = _Seen.of(slide.path)

    def is_real(self, level: int) -> bool:
        """Return True: every pixel is the scanner's."""
        return True

    def read(self, seed: int, level: int, x: int, y: int, w: int, h: int) -> Pixels:
        """See `ViewedImage`."""
        try:
            return self.slide.read(level, x, y, w, h)
        except SlideError:
            self.check()
            raise

    def provenance(self, seed: int) -> dict[str, Any]:
        """Return digest and scale of the slide."""
        return {
            "slide_digest": self.digest,
            "mpp": [self.slide.mpp_x, self.slide.mpp_y],
            "levels_real": list(NAMES),
            "levels_generated": [],
        }

    def check(self) -> None:
        """See `ViewedImage`."""
        self._seen.check(self.slide.path.name)

    def close(self) -> None:
        """See `ViewedImage`."""
        self.slide.close()


class ArchiveImage:
    """An archive: stored pixels where available, generated ones at finer levels.

    Args:
        archive: the archive, closed with this object.
        pipeline: the pipeline whose patch encoder made the archive.
        options: how to render; the seed is replaced by the requested one.

    Raises:
        ArchiveError: the archive was made with another patch encoder.
    """

    def __init__(self, archive: Archive, pipeline: ZoomLDMPipeline, options: RenderOptions) -> None:
        self.archive, self.pipeline, self.options = archive, pipeline, options
        self.size = archive.size
        self.base = archive.base
        self._real_from = self.base.level if self.base and not archive.generated else COUNT
        self._seen = _Seen.of(archive.path)
        self._opening = threading.Lock()
        self._renderers: OrderedDict[int, tuple[Renderer, threading.Lock]] = OrderedDict()
        provenance = self._renderer(options.seed)[0].provenance()  # refuses a mismatch here
        whole = f"{source_digest({**provenance, 'seed': 0})} {pipeline.device.type}"
        self.digest = hashlib.sha256(whole.encode()).hexdigest()

    def is_real(self, level: int) -> bool:
        """Return whether the level is made of stored pixels."""
        return level >= self._real_from

    def _renderer(self, seed: int) -> tuple[Renderer, threading.Lock]:
        with self._opening:
            if seed not in self._renderers:
                options = replace(self.options, seed=seed)
                renderer = open_renderer(
                    self.archive, self.pipeline, options, memory=RENDERER_BYTES
                )
                self._renderers[seed] = renderer, threading.Lock()
                while len(self._renderers) > SEEDS:
                    # A renderer that another thread still reads from lives until that is done.
                    self._renderers.popitem(last=False)
            self._renderers.move_to_end(seed)
            return self._renderers[seed]

    def read(self, seed: int, level: int, x: int, y: int, w: int, h: int) -> Pixels:
        """See `ViewedImage`. One thread at a time reads the generated levels of a seed."""
        try:
            if self.base is not None and self.is_real(level):
                return self.base.read_level(level, x, y, w, h)
            renderer, lock = self._renderer(seed)
            with lock:
                return renderer.read(level, x, y, w, h)
        except (ArchiveError, OSError) as error:
            self.check()
            if isinstance(error.__cause__, ChangedError | MissingError):
                raise _gone(self.archive.manifest.slide.name, error.__cause__) from error
            raise

    def provenance(self, seed: int) -> dict[str, Any]:
        """Return digests, options, and which levels are real."""
        return self._renderer(seed)[0].provenance()

    @property
    def describes(self) -> bool:
        """Whether there are embeddings, and a network to compare tiles with them."""
        return self.pipeline.patch_encoder is not None and not self.archive.generated

    def confidence(self, row: int, col: int, tile: Pixels) -> float | None:
        """Cosine (-1 to 1) between a tile's stored embedding and that of its generated pixels.

        Args:
            row: row of the tile.
            col: column of the tile.
            tile: (256, 256, 3) uint8 sRGB, the generated pixels.

        Returns:
            None if the tile is not tissue, the pipeline has no patch encoder, or the slide is
            imaginary.
        """
        if not self.describes or not self.archive.mask[row, col]:
            return None
        stored = self.archive.embeddings_of([row], [col])[0].astype(np.float64)
        encoded = self.pipeline.encode_tiles(tile[None])[0].astype(np.float64)
        size = np.linalg.norm(stored) * np.linalg.norm(encoded)
        return float(stored @ encoded / size) if size > 0 else None

    def check(self) -> None:
        """See `ViewedImage`."""
        self._seen.check(self.archive.manifest.slide.name)

    def close(self) -> None:
        """See `ViewedImage`."""
        with self._opening:
            self._renderers.clear()
        self.archive.close()


def sizes_of(image: ViewedImage) -> list[tuple[int, int]]:
    """Return width and height (px) at levels 0 to 7."""
    return [level_size(*image.size, level) for level in range(COUNT)]
