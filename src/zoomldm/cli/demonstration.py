"""What `zoomldm demo` shows: a held-out place at eight magnifications, beside the real one."""

import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomldm.cli.output import megabytes, print_table, progress

SIDE = 1024  # px of the 0.5 mpp raster that are written as a TIFF
CODED = 2  # level of the codec's picture
FINE = 3  # levels that it is shown at

Pixels = NDArray[np.uint8]


def main(folder: Path) -> None:
    """Run the demo, writing into `folder`.

    - `compare.png`: one place of a slide that no network saw, at all magnifications: real, from
      the shipped archive, an AVIF of the same bytes, and from embeddings alone.
    - `region.tif`: a region as a pyramidal TIFF; `region.zldm`: the TIFF compressed again.
    """
    print("loading the pipeline", flush=True)
    from zoomldm.archive import open_archive
    from zoomldm.compression.compress import compress
    from zoomldm.geometry.lattice import densest_point, densest_region, patch_windows
    from zoomldm.geometry.levels import TILE
    from zoomldm.pipeline import load_pipeline
    from zoomldm.rendering import DecompressOptions, decompress

    folder.mkdir(exist_ok=True)
    shipped = Path(str(resources.files("zoomldm") / "weights"))
    source = shipped / "demo.zldm"
    pipeline = load_pipeline()
    rows: list[list[str]] = []
    with open_archive(source) as archive:
        manifest, size = archive.manifest, archive.size
        region = densest_region(archive.mask, size, SIDE)
        windows = patch_windows(densest_point(archive.mask))
        start = time.monotonic()
        shown = {
            "real": _split(shipped / "demo" / "real.jpg", TILE),
            "archive": _drawn(archive, pipeline, windows, base=True),
            "AVIF, same bytes": _coded(shipped / "demo" / "codec.json", windows),
            "embeddings alone": _drawn(archive, pipeline, windows, base=False),
        }
        seconds = time.monotonic() - start
        bytes_per_tile = archive.file_bytes / manifest.tissue_tiles
    compare, picture, again = (folder / n for n in ("compare.png", "region.tif", "region.zldm"))
    _sheet(shown).save(compare)
    print(f"one place at eight magnifications, four ways: {seconds:.0f} s", flush=True)
    before, count = manifest.slide.file_bytes, source.stat().st_size
    rows.append(
        ["slide -> archive", megabytes(before), megabytes(count), f"1/{before / count:.0f}"]
    )
    start = time.monotonic()
    with progress() as advance:
        decompress(
            source,
            picture,
            DecompressOptions(region=region),
            pipeline=pipeline,
            progress=advance,
        )
    print(f"region of {SIDE} px as a pyramidal TIFF: {time.monotonic() - start:.0f} s", flush=True)
    rows.append(["-> region.tif", megabytes(count), megabytes(picture.stat().st_size), "-"])
    start = time.monotonic()
    with progress() as advance:
        compress(picture, again, pipeline=pipeline, progress=advance)
    print(f"region compressed again: {time.monotonic() - start:.0f} s", flush=True)
    before, count = picture.stat().st_size, again.stat().st_size
    rows.append(["-> region.zldm", megabytes(before), megabytes(count), f"1/{before / count:.0f}"])
    title = f"demo: {manifest.slide.name}, {bytes_per_tile:.0f} bytes a tissue tile"
    print_table(title, ["what", "in", "out", "of the file"], rows)
    print(f"look at {compare} and {picture}")
    print(f"the whole slide in the browser: pip install 'zoomldm[viewer]'; zoomldm view {source}")


def _drawn(archive: Any, pipeline: Any, windows: Any, base: bool) -> dict[int, Pixels]:
    """The place at every level from an archive, with its base layer or without."""
    from zoomldm.evaluation.readers import WithoutBase
    from zoomldm.rendering.opening import open_renderer

    renderer = open_renderer(archive if base else WithoutBase(archive), pipeline)  # type: ignore[arg-type]
    return {k: renderer.read(k, *window) for k, window in windows.items()}


def _split(path: Path, side: int) -> dict[int, Pixels]:
    """Patches of a strip, the finest level first."""
    from PIL import Image

    with Image.open(path) as image:
        strip = np.asarray(image.convert("RGB"))
    return {k: strip[:, k * side : (k + 1) * side] for k in range(strip.shape[1] // side)}


def _coded(path: Path, windows: Any) -> dict[int, Pixels]:
    """The place from an AVIF of the 5x picture around it, enlarged for finer levels."""
    import imagecodecs

    from zoomldm.evaluation.readers import Enlarged

    facts = json.loads(path.read_text())
    image = imagecodecs.avif_decode((path.parent / facts["file"]).read_bytes())
    x0, y0 = facts["x"], facts["y"]

    def pixels(x: int, y: int, width: int, height: int) -> Pixels:
        rows = np.clip(np.arange(y - y0, y - y0 + height), 0, image.shape[0] - 1)
        cols = np.clip(np.arange(x - x0, x - x0 + width), 0, image.shape[1] - 1)
        return image[rows[:, None], cols]

    reader = Enlarged(pixels, CODED, tuple(facts["raster"]))
    return {k: reader.read(k, *windows[k]) for k in range(FINE)}


def _sheet(shown: dict[str, dict[int, Pixels]]) -> Any:
    """Rows of ways, columns of levels, and under each picture its figures against the real one."""
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


def _figures(made: Pixels, real: Pixels) -> str:
    a, b = made.astype(np.float64), real.astype(np.float64)
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
