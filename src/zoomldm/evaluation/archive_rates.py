"""Measure archives of several ratios, to compare with a codec at the same total bytes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoomldm.archive import open_archive
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.errors import ConfigError
from zoomldm.evaluation.comparison import Judges, Tissue, choose_places
from zoomldm.evaluation.rates import load_rows, save_rows
from zoomldm.geometry.levels import NAMES, TILE, parse_level
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering.opening import open_renderer
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue
from zoomldm.verbs import Progress, silent


@dataclass(frozen=True)
class ArchiveSetting:
    """Settings of an archive: slide-to-archive size ratio and level of the base layer.

    Attributes:
        ratio: requested ratio; has no effect without a base layer.
        base: 0 to 7, None for embeddings alone.

    Examples:
        >>> str(ArchiveSetting(45, 2)), str(ArchiveSetting(0, None))
        ('archive 45:1, base 5x', 'archive, embeddings alone')
    """

    ratio: float
    base: int | None

    def __str__(self) -> str:
        """Return a label for tables."""
        if self.base is None:
            return "archive, embeddings alone"
        return f"archive {self.ratio:g}:1, base {NAMES[self.base]}"

    def options(self) -> CompressOptions:
        """Return the compression options of this archive."""
        if self.base is None:
            return CompressOptions(base="none")
        return CompressOptions(base=NAMES[self.base], ratio=self.ratio)


def parse_archive(text: str) -> ArchiveSetting:
    """Parse `RATIO:LEVEL` or `none`.

    Raises:
        ConfigError: the text is neither.

    Examples:
        >>> parse_archive("45:5x")
        ArchiveSetting(ratio=45.0, base=2)
    """
    if text == "none":
        return ArchiveSetting(0, None)
    ratio, colon, level = text.partition(":")
    try:
        number = float(ratio)
        if not colon or not 1 < number < 1e4:
            raise ValueError
        return ArchiveSetting(number, parse_level(level))
    except (ValueError, KeyError):
        raise ConfigError(
            f"archive {text!r}; expected RATIO:LEVEL such as 45:5x, or none for embeddings alone"
        ) from None


def measure_archives(
    path: Path,
    settings: Sequence[ArchiveSetting],
    judges: Judges,
    pipeline: ZoomLDMPipeline,
    *,
    tiles: int = 100,
    levels: Sequence[int] = (0,),
    cache_path: Path | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Compress a slide to archives, decompress and measure them, a row per archive and level.

    Args:
        path: the slide.
        settings: the archives.
        judges: evaluation feature extractors.
        pipeline: makes and decompresses the archives, with its defaults and seed 0.
        tiles: patches per level, at the places that `measure_settings` chooses.
        levels: levels to measure at.
        cache_path: JSON file in which rows are stored as they come and looked up on the next run.
        progress: called as work goes on.

    Returns:
        Rows as `measure_settings` returns them; `bytes` is the archive's file size per tissue tile
        and `reached` whether it has the requested ratio (within a twentieth).
    """
    known, rows = load_rows(cache_path), []
    digest = pipeline.digest()[:16]
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
        mask = find_tissue(slide).mask
        tissues: dict[int, Tissue] = {}
        for number, setting in enumerate(settings):
            keys = {k: f"{path.name}|{setting}|{NAMES[k]}|{tiles}|{digest}" for k in levels}
            if any(key not in known for key in keys.values()):
                progress(path.name, number, len(settings))
                target = Path(folder) / f"{number}.zldm"
                report = compress(path, target, setting.options(), pipeline=pipeline)
                with (
                    open_archive(target) as archive,
                    open_renderer(archive, pipeline) as renderer,
                ):
                    for level, key in keys.items():
                        if level not in tissues:
                            found = choose_places(slide, mask, level, tiles)
                            tissues[level] = Tissue(level, *found, judges)
                        known[key] = {
                            "slide": path.name,
                            "setting": str(setting),
                            "codec": "archive",
                            "stored": "none" if setting.base is None else NAMES[setting.base],
                            "bytes": report.bytes / report.tissue_tiles,
                            "quality": report.base_quality,
                            "reached": report.ratio >= 0.95 * setting.ratio,
                            "level": NAMES[level],
                            "patches": len(tissues[level].pixels),
                            "side": TILE,
                            "ratio": report.ratio,
                            "measures": tissues[level].measure(tissues[level].read(renderer)),
                        }
                        save_rows(cache_path, known)
            rows += [known[key] for key in keys.values()]
    return rows
