"""Compare what archives show with their slides: real, base layer, codec, regenerated."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zoomldm.archive import Archive, open_archive
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.evaluation.codecs import CodedSlide, Setting
from zoomldm.evaluation.comparison import (
    Judges,
    Tissue,
    choose_places,
    choose_regions,
    measure_regions,
)
from zoomldm.evaluation.distances import Interval, cluster_weights, mean_draws
from zoomldm.evaluation.fidelity import Pixels
from zoomldm.evaluation.readers import Enlarged, Reads, WithoutBase
from zoomldm.geometry.levels import NAMES, TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.remote import RemotePath
from zoomldm.rendering import RenderOptions
from zoomldm.rendering.opening import open_renderer
from zoomldm.slides import Slide, open_slide
from zoomldm.verbs import Progress, silent

CODED_AT = (2, 3, 4)  # levels tried in turn until the codec reaches the bytes
REAL, BASE, CODEC = "real", "base layer enlarged", "codec"
WITH_BASE, ALONE = "regenerated with base layer", "regenerated from embeddings alone"
_LEAST = 4  # patches that a level needs
_SHOWN = 6  # places per sheet
_HEADER = 18  # px

Render = Callable[[Any, ZoomLDMPipeline, RenderOptions], Reads]
"""From archive, pipeline and options to a reader of the decompressed pixels."""


@dataclass(frozen=True)
class Column:
    """One rendition of a slide.

    Attributes:
        name: its name on pages.
        reader: its pixels.
        bytes_per_tile: stored bytes per tissue tile; None for the slide itself.
        note: how it was made.
    """

    name: str
    reader: Reads
    bytes_per_tile: float | None
    note: str = ""


def base_layer(archive: Archive) -> tuple[Enlarged, int, int] | None:
    """Return a reader of the base layer, its level and its bytes; None if there is none."""
    base = archive.base
    if base is None:
        return None
    stored = sum(
        member.size
        for member in archive.manifest.members
        if member.name.split("/")[0] in ("base", "overview")
    )
    return Enlarged(base.read, base.level, archive.size), base.level, stored


def codec_at(slide: Slide, mask: NDArray[np.bool_], codec: str, count: float) -> CodedSlide:
    """Code the slide at `count` bytes per tile, at the finest of 5x, 2.5x and 1.25x that fits."""
    found = None
    for level in CODED_AT:
        found = CodedSlide(slide, mask, Setting(codec, level, count))
        if found.reached:
            break
    assert found is not None
    return found


def columns_of(
    slide: Slide,
    archive: Archive,
    pipeline: ZoomLDMPipeline,
    options: RenderOptions,
    codec: str = "avif",
    alone: bool = True,
    render: Render = open_renderer,
) -> dict[str, Column]:
    """Collect all renditions of a slide by name, without those that the archive lacks.

    Args:
        slide: the slide itself; must stay open.
        archive: archive of the slide; must stay open.
        pipeline: decompresses it.
        options: decompression options.
        codec: plain codec at the archive's bytes, for comparison.
        alone: also without the base layer, if there is one.
        render: makes the reader of the decompressed pixels.

    Raises:
        ArchiveError: the archive is of another slide or scale, or in another orientation.
    """
    if archive.size != slide.size or archive.turn:
        found = f"turn {archive.turn}, " if archive.turn else ""
        raise ArchiveError(
            f"{archive.path}: is of {found}a raster of {archive.size} px, {slide.path} has one of "
            f"{slide.size}; give slides and archives in pairs"
        )
    tiles = max(1, int(archive.mask.sum()))
    whole = archive.file_bytes / tiles
    columns = {REAL: Column(REAL, slide, None)}
    base = base_layer(archive)
    own = 0.0
    if base is not None:
        own = base[2] / tiles
        columns[BASE] = Column(BASE, base[0], own, f"stored at {NAMES[base[1]]}")
    coded = codec_at(slide, archive.mask, codec, whole)
    columns[CODEC] = Column(
        CODEC,
        coded,
        coded.bytes_per_tile,
        f"{codec} of {NAMES[coded.setting.level]}, quality {coded.quality}",
    )
    if base is not None:
        columns[WITH_BASE] = Column(WITH_BASE, render(archive, pipeline, options), whole)
    if alone or base is None:
        bare: Any = WithoutBase(archive)
        columns[ALONE] = Column(ALONE, render(bare, pipeline, options), whole - own)
    return columns


def measure_regeneration(
    pairs: Sequence[tuple[Path, Path | RemotePath]],
    pipeline: ZoomLDMPipeline,
    judges: Judges,
    *,
    levels: Sequence[int] = (0, 1, 2),
    tiles: int = 100,
    regions: int = 2,
    options: RenderOptions | None = None,
    codec: str = "avif",
    alone: bool = True,
    render: Render = open_renderer,
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[str, Pixels]]:
    """Measure decompressed images level by level, beside alternatives of similar size.

    Args:
        pairs: slides and their archives.
        pipeline: decompresses them.
        judges: evaluation feature extractors.
        levels: 0 to 7; a level with fewer than four patches is left out.
        tiles: patches per level, at random places.
        regions: squares of 1,024 px with the highest tissue fraction, for seams, holes and places.
        options: decompression options.
        codec: plain codec for comparison.
        alone: also regenerate from embeddings alone, without the base layer.
        render: makes the reader of the decompressed pixels.
        progress: called as work goes on.

    Returns:
        The figures (`slides`: `slide`, `archive`, `ratio`, `bytes`, `columns`, `levels`, each with
        a `rows` of `pictures` and `measures`) and sheets by name, `STEM-LEVEL`: one row per place,
        one column per rendition.

    Raises:
        ConfigError: nothing to measure.
        ArchiveError: an archive does not fit its slide or the pipeline.
    """
    if not pairs:
        raise ConfigError("no slides to evaluate on; give SLIDE ARCHIVE, one pair or several")
    options = options or RenderOptions()
    slides, sheets = [], {}
    for path, target in pairs:
        with ExitStack() as stack:
            slide = stack.enter_context(open_slide(path))
            archive = stack.enter_context(open_archive(target))
            columns = columns_of(slide, archive, pipeline, options, codec, alone, render)
            report = {
                "slide": path.name,
                "archive": target.name,
                "ratio": slide.file_bytes / archive.file_bytes,
                "bytes": archive.file_bytes / max(1, int(archive.mask.sum())),
                "columns": [
                    {"name": c.name, "bytes": c.bytes_per_tile, "note": c.note}
                    for c in columns.values()
                ],
                "levels": [],
            }
            ways = len(columns) - 1
            for done, level in enumerate(levels):
                places, pixels = choose_places(slide, archive.mask, level, tiles)
                if len(places) < _LEAST:
                    continue
                tissue = Tissue(level, places, pixels, judges)
                rows, shown = [], {REAL: pixels}
                for way, column in enumerate(list(columns.values())[1:]):
                    progress(path.name, done * ways + way, len(levels) * ways)
                    images = tissue.read(column.reader)
                    shown[column.name] = images
                    measures = tissue.measure(images)
                    if level == 0:
                        measures["embedding"] = _cosine(pipeline, archive, tissue, images)
                    row = {"pictures": column.name, "measures": measures}
                    if level == 0 and regions:
                        base = base_layer(archive)
                        chosen = choose_regions(archive.mask, regions)
                        row["regions"] = measure_regions(
                            slide, column.reader, chosen, base and (base[0], max(2, base[1]))
                        )
                    rows.append(row)
                report["levels"].append(
                    {"level": NAMES[level], "patches": len(places), "rows": rows}
                )
                sheets[f"{path.stem}-{NAMES[level]}"] = draw_sheet(shown)
            slides.append(report)
    return {
        "digest": pipeline.digest(),
        "options": asdict(options),
        "codec": codec,
        "slides": slides,
    }, sheets


def _cosine(
    pipeline: ZoomLDMPipeline, archive: Archive, tissue: Tissue, images: Pixels
) -> dict[str, float]:
    """Cosine between the stored embedding and that of the image, with its interval."""
    stored = np.concatenate(
        [archive.grid(0, y // TILE, x // TILE).reshape(1, -1) for x, y in tissue.places.tolist()]
    )
    own = np.concatenate(
        [pipeline.encode_tiles(images[i : i + 32]) for i in range(0, len(images), 32)]
    )
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(own, axis=1)
    values = (stored * own).sum(1) / np.maximum(norms, 1e-12)
    return asdict(Interval.of(mean_draws(values, cluster_weights(tissue.clusters))))


def draw_sheet(shown: dict[str, Pixels], most: int = _SHOWN) -> Pixels:
    """Draw a sheet with a row per place and a column per rendition, names on top.

    Args:
        shown: (n, 256, 256, 3) uint8 by name, all of the same places.
        most: largest number of places shown, evenly spread.
    """
    count = len(next(iter(shown.values())))
    chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    columns = []
    for name, pixels in shown.items():
        head = Image.new("RGB", (TILE, _HEADER), "white")
        ImageDraw.Draw(head).text((4, 3), name, fill="black")
        columns.append(np.concatenate([np.asarray(head), *pixels[chosen]]))
    return np.concatenate(columns, 1)
