"""Quality against bytes: codecs and base layers at many rates, measured from 20x up."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.evaluation.codecs import CodedSlide, Setting
from zoomldm.evaluation.comparison import (
    Judges,
    Tissue,
    choose_places,
    choose_regions,
    measure_regions,
)
from zoomldm.evaluation.distances import frechet, kid, scaled
from zoomldm.evaluation.readers import Reads
from zoomldm.files import atomic_path
from zoomldm.geometry.levels import NAMES, TILE
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue
from zoomldm.tables import as_markdown
from zoomldm.verbs import Progress, silent

Decode = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""From base layer pixels (h, w, 3) and their level to 20x pixels (h 2^level, w 2^level, 3)."""

RATIOS = (100, 60, 48, 40, 30)
EMBEDDINGS = (300, 150, 0)  # bytes a tile: int8, int4, none
STORED = {"avif": (1, 2, 3), "jpegxl": (2, 3), "webp": (2,), "jpeg": (2, 3)}  # codec: levels
LEAST_BYTES = 24  # per tile; with fewer, a base layer is not worth a file
_HALO = 32  # px of the base layer decoded around a region


class Decoded:
    """A coded slide with 20x pixels decoded from its base layer; coarser levels are averaged.

    Args:
        coded: the base layer.
        decode: see `Decode`.
        halo: px of the base layer decoded around the requested region.
    """

    def __init__(self, coded: CodedSlide, decode: Decode, halo: int = _HALO) -> None:
        self._coded, self._decode, self._halo = coded, decode, halo

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region in px of a level; see `Reads`."""
        stored = self._coded.setting.level
        if level >= stored:
            return self._coded.read(level, x, y, width, height)
        step = 2 ** (stored - level)
        left, top = x // step - self._halo, y // step - self._halo
        right, bottom = (-(-(v + n) // step) + self._halo for v, n in ((x, width), (y, height)))
        base = self._coded.read(stored, left, top, right - left, bottom - top)
        decoded = self._decode(base, stored)
        if level:
            from PIL import Image

            decoded = np.asarray(Image.fromarray(decoded).reduce(2**level))
        x0, y0 = x - left * step, y - top * step
        return decoded[y0 : y0 + height, x0 : x0 + width]


def archive_settings(bytes_per_tile: float) -> dict[tuple[int, int], list[Setting]]:
    """List the base layers that fit beside the embeddings in archives of each ratio.

    Args:
        bytes_per_tile: bytes of the slide's file per tissue tile.

    Returns:
        By (ratio, bytes of embedding per tile): settings that use the remaining bytes, one for
        each codec and level; empty where too few bytes remain.
    """
    found: dict[tuple[int, int], list[Setting]] = {}
    for ratio in RATIOS:
        for embedding in EMBEDDINGS:
            left = bytes_per_tile / ratio - embedding
            found[ratio, embedding] = [
                Setting(codec, level, round(left))
                for codec, levels in STORED.items()
                for level in levels
                if left >= LEAST_BYTES
            ]
    return found


def measure_settings(
    path: Path,
    settings: Sequence[Setting],
    judges: Judges,
    *,
    tiles: int = 100,
    regions: int = 2,
    levels: Sequence[int] = (0,),
    decode: Decode | None = None,
    cache_path: Path | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Measure a slide stored with each of several settings, a row per setting and level.

    Args:
        path: the slide.
        settings: how the slide is stored. A setting that no quality reaches is measured at the
            codec's lowest quality, with `reached` false.
        judges: evaluation feature extractors.
        tiles: patches per level, at random places.
        regions: squares of 1,024 px, those with the highest tissue fraction.
        levels: levels to measure at.
        decode: makes 20x pixels from a base layer; None enlarges it.
        cache_path: JSON file in which rows are stored as they come and looked up on the next run.
        progress: called as work goes on.

    Returns:
        Rows of `slide`, `setting` (text), `codec`, `stored` (level), `bytes`, `quality`,
        `reached`, `level`, `patches`, `measures` and at 20x `regions`.
    """
    known = load_rows(cache_path)
    rows = []
    with open_slide(path) as slide:
        mask = find_tissue(slide).mask
        places = choose_regions(mask, regions)
        tissues: dict[int, Tissue] = {}
        for setting in settings:
            coded: CodedSlide | None = None
            for level in levels:
                kind = "decoded" if decode else "enlarged"
                key = "|".join(map(str, (path.name, setting, NAMES[level], tiles, regions, kind)))
                if key not in known:
                    progress(path.name, len(rows), len(settings) * len(levels))
                    if level not in tissues:
                        tissues[level] = Tissue(
                            level, *choose_places(slide, mask, level, tiles), judges
                        )
                    coded = coded or CodedSlide(slide, mask, setting)
                    reader: Reads = Decoded(coded, decode) if decode else coded
                    row = _row(path, coded, level, tissues[level])
                    row["measures"] = tissues[level].measure(tissues[level].read(reader))
                    if level == 0 and len(places):
                        base = (coded, max(2, setting.level))
                        row["regions"] = measure_regions(slide, reader, places, base)
                    known[key] = row
                    save_rows(cache_path, known)
                rows.append(known[key])
    return rows


def between_cases(
    slides: Sequence[Path], judges: Judges, tiles: int = 100, level: int = 0
) -> list[dict[str, Any]]:
    """Measure distances between real tiles: of each slide to other tiles of it and of the others.

    Returns:
        Rows of `slide`, `pictures`, `n`, `frechet` and `kernel`. Features are in units of the
        slide's first set; the two sets of a row have equal size.
    """
    sets: dict[str, list[NDArray]] = {}
    for path in slides:
        with open_slide(path) as slide:
            pixels = choose_places(slide, find_tissue(slide).mask, level, 2 * tiles)[1]
        order = np.random.default_rng(1).permutation(len(pixels))
        half = len(pixels) // 2
        sets[path.name] = [
            judges.public(pixels[np.sort(part)]) for part in (order[:half], order[half : 2 * half])
        ]
    rows = []
    for name, (real, rest) in sets.items():
        others = {"other tiles of it": rest} | {k: v[0] for k, v in sets.items() if k != name}
        for kind, features in others.items():
            n = min(len(real), len(features))
            a, b = scaled(real[:n], features[:n])
            rows.append(
                {
                    "slide": name,
                    "pictures": kind,
                    "n": n,
                    "frechet": frechet(a, b),
                    "kernel": kid(a, b),
                }
            )
    return rows


def bytes_per_tile(path: Path) -> float:
    """Size of a slide's file in bytes, divided by its number of tissue tiles."""
    with open_slide(path) as slide:
        return slide.file_bytes / max(1, int(find_tissue(slide).mask.sum()))


def _row(path: Path, coded: CodedSlide, level: int, tissue: Tissue) -> dict[str, Any]:
    setting = coded.setting
    return {
        "slide": path.name,
        "setting": str(setting),
        "codec": setting.codec,
        "stored": NAMES[setting.level],
        "bytes": coded.bytes_per_tile,
        "quality": coded.quality,
        "reached": coded.reached,
        "level": NAMES[level],
        "patches": len(tissue.pixels),
        "side": TILE,
    }


def load_rows(cache_path: Path | None) -> dict[str, Any]:
    """Read the rows of an earlier run, by key."""
    if cache_path is None or not cache_path.is_file():
        return {}
    return json.loads(cache_path.read_text())


def save_rows(cache_path: Path | None, known: dict[str, Any]) -> None:
    """Store all known rows."""
    if cache_path is not None:
        with atomic_path(cache_path) as fresh:
            fresh.write_text(json.dumps(known))


def settings_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format rows of one slide and level as Markdown, fractions with their 95 % intervals."""
    columns = [
        *("stored as", "bytes a tile", "PSNR (dB)", "SSIM", "detail", "nuclei F1", "density"),
        *(
            "public retrieval (%)",
            "with floor (%)",
            "own judge (%)",
            "Fréchet",
            "kernel",
            "perceptual",
        ),
        "lum 4 / 2 um, haem 2 um",
    ]
    lines = []
    for row in rows:
        m, r = row["measures"], row.get("regions", {})

        def value(name: str, digits: int, scale: float = 1, m: dict = m) -> str:
            return f"{m[name]['value'] * scale:.{digits}f}" if name in m else "-"

        def with_interval(name: str, digits: int, scale: float, m: dict = m) -> str:
            if name not in m:
                return "-"
            low, high = m[name]["low"] * scale, m[name]["high"] * scale
            return f"{m[name]['value'] * scale:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

        size = "-" if row["codec"] == "none" else f"{row['bytes']:.0f}"
        places = [r[k] for k in ("luminance_4um", "luminance_2um", "haematoxylin_2um") if k in r]
        cells = [
            row["setting"] + ("" if row["reached"] else " (its lowest)"),
            size,
            *(value("psnr", 1), value("ssim", 3), value("detail", 0, 100) + " %"),
            *(with_interval("f1", 2, 1), value("density_correlation", 2)),
            with_interval("retrieval", 0, 100),
            *(value("retrieval_floored", 0, 100), with_interval("retrieval_own", 0, 100)),
            *(value("frechet", 0), value("kernel", 2), value("perceptual", 3)),
            " / ".join(f"{p:.2f}" for p in places) or "-",
        ]
        lines.append(cells)
    return as_markdown(columns, lines)
