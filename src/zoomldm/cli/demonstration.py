"""What `zoomldm demo` shows: a held-out place at eight magnifications beside real pixels."""

import json
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.errors import TargetError
from zoomldm.files import atomic_path
from zoomldm.verbs import Progress, Report, silent

if TYPE_CHECKING:
    from zoomldm.pipeline import ZoomLDMPipeline

LEVELS = tuple(range(8))  # levels at which the place is shown
SIDE = 1024  # of the TIFF's region, in px of the 0.5 mpp raster
CODED = 2  # level of the codec's image
FINE = 3  # levels at which it is shown

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class DemoPart:
    """One step of the demo.

    Attributes:
        name: what the step does.
        source_bytes: bytes of the input.
        bytes: bytes of the output.
        seconds: time taken.
    """

    name: str
    source_bytes: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class DemoReport(Report):
    """What the demo wrote.

    Attributes:
        slide: name of the shipped archive's slide.
        source: the shipped archive.
        compare: image of one place at all levels, four ways.
        region: a pyramidal TIFF.
        again: the TIFF's archive.
        bytes_per_tile: bytes of the shipped archive per tissue tile.
        ratio: bytes of the slide over those of its archive.
        parts: the steps.
    """

    slide: str
    source: Path
    compare: Path
    region: Path
    again: Path
    bytes_per_tile: float
    ratio: float
    parts: tuple[DemoPart, ...]


def demonstrate(
    out: Path,
    *,
    pipeline: "ZoomLDMPipeline",
    progress: Progress | None = None,
) -> DemoReport:
    """Run the demo.

    - `compare.png`: one place of a slide that no network saw, at all magnifications: real, from
      the shipped archive, from an AVIF of the same bytes, and from embeddings alone.
    - `region.tif`: a region as a pyramidal TIFF; `region.zldm`: the TIFF compressed again.

    Args:
        out: output folder; created if its parent exists.
        pipeline: the shipped pipeline, on any device.
        progress: progress callback.

    Raises:
        TargetError: the folder can't be made.
    """
    from zoomldm.archive import open_archive
    from zoomldm.compression.compress import compress
    from zoomldm.geometry.lattice import densest_point, densest_region, patch_windows
    from zoomldm.geometry.levels import TILE
    from zoomldm.rendering import DecompressOptions, decompress

    progress = progress or silent
    if not out.is_dir():
        if out.exists() or not out.absolute().parent.is_dir():
            raise TargetError(f"{out}: can't be made; expected a folder or a new name in one")
        out.mkdir()
    shipped = Path(str(resources.files("zoomldm") / "weights"))
    source, parts = shipped / "demo.zldm", []
    compare, region, again = (out / n for n in ("compare.png", "region.tif", "region.zldm"))
    begun = time.monotonic()

    def finished(name: str, source_bytes: int, path: Path) -> None:
        nonlocal begun
        now = time.monotonic()
        parts.append(DemoPart(name, source_bytes, path.stat().st_size, round(now - begun, 1)))
        begun = now

    with open_archive(source) as archive:
        manifest, size = archive.manifest, archive.size
        window = densest_region(archive.mask, size, SIDE)
        every = patch_windows(densest_point(archive.mask))
        windows = {k: every[k] for k in LEVELS}
        progress("one place, four ways", 0, 2)
        real = _split(shipped / "demo" / "real.jpg", TILE)
        shown = {
            "real": {k: v for k, v in real.items() if k in windows},
            "archive": _rendered(archive, pipeline, windows, base=True),
            "AVIF, same bytes": _coded(shipped / "demo" / "codec.json", windows),
        }
        progress("one place, four ways", 1, 2)
        shown["embeddings alone"] = _rendered(archive, pipeline, windows, base=False)
        progress("one place, four ways", 2, 2)
        slide_bytes, count = manifest.slide.file_bytes, archive.file_bytes
    with atomic_path(compare) as part:
        _sheet(shown).save(part, format="PNG")
    finished("one place at eight magnifications", count, compare)
    options = DecompressOptions(region=window)
    decompress(source, region, options, pipeline=pipeline, progress=progress)
    finished(f"region of {SIDE} px as a pyramidal TIFF", count, region)
    compress(region, again, pipeline=pipeline, progress=progress)
    finished("the TIFF compressed again", region.stat().st_size, again)
    return DemoReport(
        slide=manifest.slide.name,
        source=source,
        compare=compare,
        region=region,
        again=again,
        bytes_per_tile=count / manifest.tissue_tiles,
        ratio=slide_bytes / count,
        parts=tuple(parts),
    )


def _rendered(archive: Any, pipeline: Any, windows: Any, base: bool) -> dict[int, Pixels]:
    """Render the place at every level from an archive, with or without its base layer."""
    from zoomldm.evaluation.readers import WithoutBase
    from zoomldm.rendering.opening import open_renderer

    renderer = open_renderer(archive if base else WithoutBase(archive), pipeline)  # type: ignore[arg-type]
    return {k: renderer.read(k, *window) for k, window in windows.items()}


def _split(path: Path, side: int) -> dict[int, Pixels]:
    """Split a strip into patches, the finest level first."""
    from PIL import Image

    with Image.open(path) as image:
        strip = np.asarray(image.convert("RGB"))
    return {k: strip[:, k * side : (k + 1) * side] for k in range(strip.shape[1] // side)}


def _coded(path: Path, windows: Any) -> dict[int, Pixels]:
    """Read the place from an AVIF of the 5x image around it, enlarged for finer levels."""
    import imagecodecs

    from zoomldm.evaluation.readers import Enlarged

    metadata = json.loads(path.read_text())
    image = imagecodecs.avif_decode((path.parent / metadata["file"]).read_bytes())
    x0, y0 = metadata["x"], metadata["y"]

    def pixels(x: int, y: int, width: int, height: int) -> Pixels:
        rows = np.clip(np.arange(y - y0, y - y0 + height), 0, image.shape[0] - 1)
        cols = np.clip(np.arange(x - x0, x - x0 + width), 0, image.shape[1] - 1)
        return image[rows[:, None], cols]

    reader = Enlarged(pixels, CODED, tuple(metadata["raster"]))
    return {k: reader.read(k, *windows[k]) for k in windows if k < FINE}


def _sheet(shown: dict[str, dict[int, Pixels]]) -> Any:
    """Lay out ways in rows and levels in columns, with figures against the real image below."""
    from PIL import Image, ImageDraw, ImageFont

    from zoomldm.geometry.levels import NAMES, TILE

    gap, caption, left = 6, 22, 130
    levels = sorted(shown["real"], reverse=True)
    step = TILE + gap
    size = left + len(levels) * step, caption + len(shown) * (step + caption)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, level in enumerate(levels):
        draw.text((left + column * step, 3), NAMES[level], fill="black", font=font)
    for row, (name, patches) in enumerate(shown.items()):
        top = caption + row * (step + caption)
        draw.text((4, top + TILE // 2), name, fill="black", font=font)
        for column, level in enumerate(levels):
            if level not in patches:
                continue
            place = left + column * step, top
            sheet.paste(Image.fromarray(np.ascontiguousarray(patches[level])), place)
            if name != "real":
                text = _figures(patches[level], shown["real"][level])
                draw.text((place[0], top + TILE + 3), text, fill="black", font=font)
    return sheet


def _figures(image: Pixels, real: Pixels) -> str:
    a, b = image.astype(np.float64), real.astype(np.float64)
    square = max(((a - b) ** 2).mean(), 1e-9)
    grey = [x.mean(2).reshape(64, 4, 64, 4).mean((1, 3)).ravel() for x in (a, b)]
    place = np.corrcoef(*grey)[0, 1] if min(g.std() for g in grey) > 0 else float("nan")
    detail = _detail(a) / max(_detail(b), 1e-9)
    return f"{10 * np.log10(255**2 / square):.1f} dB, place {place:.2f}, detail {detail:.0%}"


def _detail(image: NDArray[np.float64]) -> float:
    """Mean absolute Laplacian of the luminance."""
    x = image.mean(2)
    centre = 4 * x[1:-1, 1:-1]
    return float(np.abs(centre - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]).mean())
