"""What a viewer serves: slides and archives under opaque ids, and which belong together."""

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoomldm.archive import open_archive
from zoomldm.errors import ConfigError
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import COUNT, NAMES, level_mpp
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.remote import RemotePath, as_path
from zoomldm.slides.slide import Slide, open_slide
from zoomldm.slides.turned import TurnedSlide
from zoomldm.viewer.overlays import Overlay
from zoomldm.viewer.pictures import ArchiveImage, SlideImage, ViewedImage, sizes_of

ID = 12  # hexadecimal digits of an id
VERSION = 16  # of the digest of all that a tile's pixels depend on


@dataclass
class Entry:
    """A slide or archive that is shown.

    Attributes:
        id: opaque id, from a digest, so links survive a restart.
        name: display name of the slide; never a path.
        kind: archive or slide.
        image: its pixels.
        seed: seed that is shown first.
        original: id of the slide that the archive was made from, if that is open too.
        overlays: what is drawn over it.
    """

    id: str
    name: str
    kind: Literal["archive", "slide"]
    image: ViewedImage
    seed: int = 0
    original: str | None = None
    overlays: list[Overlay] = field(default_factory=list)
    _vectors: tuple[NDArray, NDArray] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.sizes = sizes_of(self.image)
        self.version = self.image.digest[:VERSION]

    def vectors(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return places (n, 2) and unit embeddings (n, D) of an archive's tissue tiles."""
        assert isinstance(self.image, ArchiveImage)
        with self._lock:
            if self._vectors is None:
                archive = self.image.archive
                places = np.argwhere(archive.mask)
                vectors = archive.embeddings_of(places[:, 0], places[:, 1])
                sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
                self._vectors = places, vectors / np.maximum(sizes, 1e-12)
            return self._vectors

    def metadata(self) -> dict[str, Any]:
        """Return what a page needs: geometry, levels, and metadata of the archive or slide."""
        width, height = self.image.size
        image = self.image
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "original": self.original,
            "version": self.version,
            "seed": self.seed,
            "width": width,
            "height": height,
            "mpp": level_mpp(0),
            "levels": [
                {
                    "level": k,
                    "label": NAMES[k],
                    "mpp": level_mpp(k),
                    "width": self.sizes[k][0],
                    "height": self.sizes[k][1],
                    "real": image.is_real(k),
                }
                for k in range(COUNT)
            ],
            "overlays": [{"name": o.name, "features": o.count} for o in self.overlays],
            "confidence": isinstance(image, ArchiveImage) and image.describes,
            "archive": _archive_metadata(image) if isinstance(image, ArchiveImage) else None,
            "slide": _slide_metadata(image) if isinstance(image, SlideImage) else None,
        }


def _archive_metadata(image: ArchiveImage) -> dict[str, Any]:
    archive = image.archive
    m = archive.manifest
    return {
        "imaginary": archive.generated,
        "bytes": archive.file_bytes,
        "source_bytes": m.slide.file_bytes,
        "ratio": round(m.slide.file_bytes / archive.file_bytes, 1),
        "rows": m.grid.rows,
        "cols": m.grid.cols,
        "tissue_tiles": m.tissue_tiles,
        "encoder": m.encoder.id,
        "encoder_digest": m.encoder.digest,
        "archive_digest": archive.digest,
        "pipeline_digest": image.pipeline.digest(),
        "precision": m.quantisation.precision,
        "base": NAMES[image.base.level] if image.base and not archive.generated else None,
        "base_codec": image.base.codec if image.base else None,
        "base_quality": image.base.quality if image.base else None,
        "source_mpp": [m.slide.mpp_x, m.slide.mpp_y],
        "format_version": m.version,
        "creator": m.creator,
    }


def _slide_metadata(image: SlideImage) -> dict[str, Any]:
    slide = image.slide
    return {
        "bytes": slide.file_bytes,
        "vendor": slide.vendor,
        "mpp": [slide.mpp_x, slide.mpp_y],
        "mpp_source": slide.mpp_source,
        "native_size": list(slide.native_size),
        "digest": image.digest,
    }


class Catalogue:
    """Entries by id.

    Args:
        entries: entries in display order.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = {entry.id: entry for entry in entries}
        if len(self.entries) != len(entries):
            raise ConfigError("one archive or slide was given twice; name each of them once")

    def get(self, name: str) -> Entry | None:
        """Return the entry of an id, or None."""
        return self.entries.get(name)

    def archives(self) -> list[Entry]:
        """List the entries that are archives."""
        return [e for e in self.entries.values() if isinstance(e.image, ArchiveImage)]

    def close(self) -> None:
        """Close all files."""
        for entry in self.entries.values():
            entry.image.close()

    def similar(self, entry: Entry, row: int, col: int, count: int) -> list[dict[str, Any]]:
        """Find tissue tiles with embeddings nearest to one tile's, in all archives of its encoder.

        Args:
            entry: the archive of the tile.
            row: row of the tile.
            col: column of the tile.
            count: maximum number of results.

        Returns:
            `slide` (id), `row`, `col` and `cosine` of each, nearest first; the tile itself and
            its eight neighbours are left out. Empty for background.
        """
        image = entry.image
        assert isinstance(image, ArchiveImage)
        if image.archive.generated or not image.archive.mask[row, col]:
            return []
        wanted = image.archive.embeddings_of([row], [col])[0]
        wanted = wanted / max(float(np.linalg.norm(wanted)), 1e-12)
        found = []
        for other in self.archives():
            candidate = other.image
            assert isinstance(candidate, ArchiveImage)
            if candidate.archive.generated:
                continue
            if candidate.archive.manifest.encoder.digest != image.archive.manifest.encoder.digest:
                continue
            places, vectors = other.vectors()
            cosines = vectors @ wanted
            if other is entry:
                near = np.abs(places - (row, col)).max(1) <= 1
                cosines = np.where(near, -np.inf, cosines)
            for i in np.argsort(-cosines, kind="stable")[:count].tolist():
                if math.isfinite(cosines[i]):
                    r, c = places[i].tolist()
                    value = round(float(cosines[i]), 4)
                    found.append({"slide": other.id, "row": r, "col": c, "cosine": value})
        return sorted(found, key=lambda place: -place["cosine"])[:count]


def open_catalogue(
    paths: Sequence[Path | RemotePath | str],
    originals: Sequence[Path | str] = (),
    overlays: Sequence[Overlay] = (),
    pipeline: ZoomLDMPipeline | None = None,
    options: RenderOptions | None = None,
    mpp: float | None = None,
) -> Catalogue:
    """Open archives and slides, and find the slide that each archive was made from.

    An archive identifies its slide by a digest of the file's content. If it has none (archives
    before version 1.2), a single original of the same size is taken.

    Args:
        paths: archives (.zldm), or their URLs, and slides.
        originals: slides that the archives were made from.
        overlays: overlays for the archives, or for the slides if there are no archives.
        pipeline: pipeline of the archives; required if there are any.
        options: rendering options; None takes the defaults.
        mpp: micrometres per pixel of slides that don't state it.

    Raises:
        ArchiveError, SlideError: a file that can't be opened.
        ConfigError: an original that no archive was made from, a slide's URL, or a file given
            twice.
    """
    options = options or RenderOptions()
    entries: list[Entry] = []
    given = [as_path(path) for path in paths]
    for path in given:
        if path.suffix.lower() != ".zldm":
            continue
        if pipeline is None:
            raise ConfigError(f"{path}: an archive needs a pipeline; give one")
        image = ArchiveImage(open_archive(path), pipeline, options)
        name = Path(image.archive.manifest.slide.name).name
        entry_id = _id(image.archive.digest)
        entries.append(Entry(entry_id, name, "archive", image, options.seed))
    archives = list(entries)
    slides = [(path, False) for path in given if path.suffix.lower() != ".zldm"]
    slides += [(as_path(str(path)), True) for path in originals]
    for path, must_match in slides:
        if isinstance(path, RemotePath):
            raise ConfigError(
                f"{path}: slides are read from disk; download it, or give its archive"
            )
        slide = open_slide(path, mpp)
        content = slide.content()
        mates = _mates(archives, slide, content, must_match, len(originals))
        if must_match and not mates:
            names = ", ".join(e.name for e in archives) or "none"
            raise ConfigError(
                f"{path}: no archive given was made from this slide (they are of: {names}); "
                "leave --original out to see it by itself"
            )
        orientations = {e.image.archive.turn for e in mates}  # type: ignore[attr-defined]
        orientation = orientations.pop() if len(orientations) == 1 else 0
        digest = hashlib.sha256(f"{content} {orientation} {mpp}".encode()).hexdigest()
        shown = TurnedSlide(slide, orientation) if orientation else slide
        entry = Entry(_id(digest), path.name, "slide", SlideImage(shown, digest))
        entries.append(entry)
        for mate in mates:
            mate.original = entry.id
    _overlay(archives or entries, overlays)
    return Catalogue(entries)


def _id(digest: str) -> str:
    """Derive an opaque id from a digest."""
    return hashlib.sha256(f"zoomldm view {digest}".encode()).hexdigest()[:ID]


def _mates(
    archives: Sequence[Entry], slide: Slide, content: str, loose: bool, count: int
) -> list[Entry]:
    """Find the archives that were made from a slide."""
    found, unknown = [], []
    for entry in archives:
        image = entry.image
        assert isinstance(image, ArchiveImage)
        info = image.archive.manifest.slide
        if info.content == content:
            found.append(entry)
        elif info.content is None and tuple(info.native_size) == tuple(slide.native_size):
            unknown.append(entry)
    if not found and loose and count == 1 and len(unknown) == 1:
        return unknown
    return found


def _overlay(entries: Sequence[Entry], overlays: Sequence[Overlay]) -> None:
    """Attach each overlay to the entry that it names, or to all."""
    for overlay in overlays:
        stem = overlay.name.split(".")[0]
        named = [e for e in entries if e.name.split(".")[0] == stem]
        for entry in named or entries:
            entry.overlays.append(overlay)
