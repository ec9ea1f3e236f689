"""The viewer as static files for any file server: a bounded region and its levels."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoomldm import __version__
from zoomldm.errors import ConfigError
from zoomldm.files import atomic_folder
from zoomldm.geometry.levels import COUNT, NAMES, TILE, check_region
from zoomldm.verbs import Progress, Report, silent
from zoomldm.viewer.catalogue import Catalogue, Entry
from zoomldm.viewer.pictures import ArchiveImage
from zoomldm.viewer.regions import NOTICE
from zoomldm.viewer.tiles import TileKey, encode

MOST_TILES = 20_000
WHOLE_FROM = 3  # levels from 2.5x up are written whole, to show a region in context


@dataclass(frozen=True)
class PageReport(Report):
    """What was written.

    Attributes:
        folder: folder of the page.
        tiles: number of tiles.
        bytes: bytes of the tiles.
        levels: levels written for each slide, by its name.
    """

    folder: Path
    tiles: int
    bytes: int
    levels: dict[str, list[str]]


@dataclass(frozen=True)
class _Part:
    """Exported tiles of one level of an entry, as ranges of columns and rows."""

    entry: Entry
    level: int
    cols: range
    rows: range

    @property
    def count(self) -> int:
        return len(self.cols) * len(self.rows)


def export_page(
    catalogue: Catalogue,
    page: Path,
    folder: Path,
    level: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    most: int = MOST_TILES,
    progress: Progress = silent,
) -> PageReport:
    """Write the page with the tiles of a region, from a level up, and whole coarse levels.

    Args:
        catalogue: what is shown.
        page: folder of the page's own files.
        folder: output folder; it appears whole or not at all.
        level: finest level to write; None takes 5x, or 20x if a region is given.
        region: x, y, w, h in px of the 0.5 mpp raster; None is the whole slide.
        most: tiles in all.
        progress: see `zoomldm.verbs.Progress`.

    Raises:
        RegionError: a region that is not inside every slide.
        ConfigError: more tiles than `most`.
        TargetError: the folder can't be written.
    """
    finest = (0 if region else 2) if level is None else level
    parts = list(_parts(catalogue, finest, region))
    total = sum(part.count for part in parts)
    if total > most:
        raise ConfigError(
            f"{total} tiles from {NAMES[finest]} on; an export takes up to {most}: give a coarser "
            "--level or a smaller --region"
        )
    done = size = 0
    with atomic_folder(folder) as out:
        shutil.copytree(page, out, dirs_exist_ok=True)
        for part in parts:
            for key in _keys(part):
                size += _write_tile(out, part.entry, key)
                done += 1
                progress("tiles", done, total)
        slides = [_metadata(entry, finest, region) for entry in catalogue.entries.values()]
        _write_extras(out, catalogue)
        _write(
            out / "api" / "slides.json",
            {
                "version": __version__,
                "notice": NOTICE,
                "tile": TILE,
                "live": False,
                "format": "jpg",
                "slides": slides,
            },
        )
    levels: dict[str, list[str]] = {e.name: [*NAMES[finest:]] for e in catalogue.entries.values()}
    return PageReport(folder, total, size, levels)


def _parts(
    catalogue: Catalogue, finest: int, region: tuple[int, int, int, int] | None
) -> Iterator[_Part]:
    for entry in catalogue.entries.values():
        width, height = entry.image.size
        x, y, w, h = check_region(region or (0, 0, width, height), width, height)
        for level in range(finest, COUNT):
            wide, high = entry.sizes[level]
            cols, rows = range(-(-wide // TILE)), range(-(-high // TILE))
            if region and level < WHOLE_FROM:
                side = TILE << level
                cols = range(x // side, -(-(x + w) // side))
                rows = range(y // side, -(-(y + h) // side))
            yield _Part(entry, level, cols, rows)


def _keys(part: _Part) -> Iterator[TileKey]:
    entry = part.entry
    for row in part.rows:
        for col in part.cols:
            yield TileKey(entry.id, entry.version, entry.seed, part.level, col, row, "jpg")


def _write_tile(out: Path, entry: Entry, key: TileKey) -> int:
    x, y = key.col * TILE, key.row * TILE
    pixels = entry.image.read(key.seed, key.level, x, y, TILE, TILE)
    width, height = entry.sizes[key.level]
    data = encode(pixels[: height - y, : width - x], key.format)
    path = out / "tiles" / key.text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return len(data)


def _metadata(
    entry: Entry, finest: int, region: tuple[int, int, int, int] | None
) -> dict[str, Any]:
    metadata = entry.metadata()
    metadata["finest"], metadata["whole_from"] = finest, WHOLE_FROM
    metadata["region"] = list(region) if region else None
    metadata["confidence"] = False  # only known for tiles that a server generates
    return metadata


def _write_extras(out: Path, catalogue: Catalogue) -> None:
    """Write tissue and overlays where the page looks for them."""
    for entry in catalogue.entries.values():
        place = out / "api" / "slides" / entry.id
        for number, overlay in enumerate(entry.overlays):
            path = place / "overlays" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(overlay.text, encoding="utf-8")
        if isinstance(entry.image, ArchiveImage):
            path = place / entry.version / "tissue.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tissue_image(entry.image))


def tissue_image(image: ArchiveImage) -> bytes:
    """Encode an archive's tissue as PNG, one pixel per tile: white tissue, black background."""
    return encode((image.archive.mask[..., None].repeat(3, 2) * 255).astype("uint8"), "png")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
