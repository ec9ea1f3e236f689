"""Whether the borders of what is drawn piece by piece can be seen, over many slides and levels.

Usage: python benchmarks/seams.py ARCHIVE... --slides FOLDER [--method auto] [--large 3]
       [--limit N] [--pipeline demo] [--sheet docs/borders.jpg]

Of each archive a square of 1,024 px at 20x is drawn: of the first, third ... the one of most
tissue, of the others one that is half background. Of the largest (`--large`) it is four such
squares, side by side, and their 10x as a fifth. Stored 5x pixels are looked at, too. A figure is
the mean absolute difference of the two columns (rows) that meet in a line of a lattice, over that
beside it (`zoomldm.evaluation.fidelity.seams`): across the lattice of windows, that of decoded
tiles, that of the base layer's codec (multiples of 32 px, its blocks of eight stored ones, where no
window ends), and lattices laid at random. The control is the slide itself under all of them; of
archives whose slide is not in the folder there is none, and it does not depend on the pipeline.
With `--method blended` or `cascade` one sees what the cascades leave.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from borders import draw_borders
from numpy.typing import NDArray

from zoomldm.archive import Archive, open_archive
from zoomldm.evaluation.fidelity import Seams, pooled_seams, seams
from zoomldm.generation.windows import SCALE, STRIDE
from zoomldm.geometry.lattice import densest_region
from zoomldm.geometry.levels import NAMES, TILE
from zoomldm.pipeline import ZoomLDMPipeline, load_pipeline
from zoomldm.rendering import RenderOptions
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.renderer import Renderer
from zoomldm.slides import Slide, open_slide

SIDE = 1024
STORED = 2
RANDOM = 4  # lattices laid at random


@dataclass(frozen=True)
class Region:
    """A square of one level, drawn and real.

    Attributes:
        slide: its name.
        level: 0..7.
        corner: x and y in px of the level.
        rendered: (H, W, 3) uint8.
        real: the same of the slide; None where it isn't at hand.
    """

    slide: str
    level: int
    corner: tuple[int, int]
    rendered: NDArray[np.uint8]
    real: NDArray[np.uint8] | None


def corner_of(archive: Archive, side: int, half: bool) -> tuple[int, int]:
    """Corner (px at 20x) of the square of whole tiles with most tissue, or about half of it."""
    width, height = archive.size
    inside = archive.mask[: height // TILE, : width // TILE]
    return densest_region(inside, archive.size, side, 0.5 if half else 1.0)[:2]


def regions(
    archive: Archive, renderer: Renderer, slide: Slide | None, half: bool, large: bool
) -> Iterator[Region]:
    """Squares of an archive; those of 20x first."""

    def at(level: int, x: int, y: int) -> Region:
        wide, high = (min(SIDE, n - v) for n, v in zip(renderer.size(level), (x, y), strict=True))
        place = x, y, wide, high
        real = slide.read(level, *place) if slide else None
        name = Path(archive.manifest.slide.name).stem
        return Region(name, level, (x, y), renderer.read(level, *place), real)

    x, y = corner_of(archive, 2 * SIDE if large else SIDE, half)
    for down in range(1 + large):
        for right in range(1 + large):
            yield at(0, x + right * SIDE, y + down * SIDE)
    if large:
        yield at(1, x // 2, y // 2)
    if renderer.is_real(STORED):
        wide, high = renderer.size(STORED)
        yield at(STORED, *(max(0, min(v >> STORED, n - SIDE)) for v, n in ((x, wide), (y, high))))


Pair = tuple[Seams, Seams | None]


def figures(region: Region, pyramid: bool) -> dict[str, Pair]:
    """What is drawn and what is real, across each lattice."""
    octaves = region.level if pyramid and region.level < STORED else 0
    window, tile = STRIDE * SCALE >> octaves, TILE >> octaves
    x, y = region.corner

    def across(period: int, places: list[tuple[int, int]]) -> Pair:
        rendered, real = (
            None if pixels is None else pooled_seams([seams(pixels, period, p) for p in places])
            for pixels in (region.rendered, region.real)
        )
        assert rendered is not None
        return rendered, real

    found = {
        name: across(period, [(x, y)])
        for name, period in (("windows", window), ("tiles", tile))
        if name == "tiles" or region.level < STORED
    }
    if region.level < STORED:
        apart = (96 >> octaves, 128 >> octaves, 160 >> octaves)
        found["blocks"] = across(window, [(x + d, y + d) for d in apart])
    draw = random.Random(f"{region.slide}{region.level}{x}{y}")
    places = [(draw.randrange(window), draw.randrange(window)) for _ in range(RANDOM)]
    return {**found, "at random": across(window, places)}


def stats(found: list[Seams]) -> str:
    """Mean over all lines, the worst region's mean, the worst line."""
    if not found:
        return "-"
    whole = pooled_seams(found)
    return f"{whole.mean:7.3f} {max(f.mean for f in found):7.3f} {whole.worst:7.3f}"


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--large", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--sheet", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline: ZoomLDMPipeline = load_pipeline(given.pipeline, given.device)
    paths = sorted(given.archives)[: given.limit]
    largest = sorted(paths, key=lambda p: p.stat().st_size)[len(paths) - given.large :]
    options = RenderOptions(method=given.method)
    lines: dict[tuple[int, str], list[Pair]] = defaultdict(list)
    measured: list[Region] = []
    for number, path in enumerate(paths):
        with open_archive(path) as archive:
            source = given.slides / archive.manifest.slide.name
            with ExitStack() as stack:
                slide = stack.enter_context(open_slide(source)) if source.is_file() else None
                drawing = stack.enter_context(open_renderer(archive, pipeline, options))
                pyramid = drawing.provenance()["method"] == "pyramid"
                for region in regions(archive, drawing, slide, number % 2 == 1, path in largest):
                    measured.append(region)
                    found = figures(region, pyramid)
                    for name, pair in found.items():
                        lines[region.level, name].append(pair)
                    shown = ", ".join(
                        f"{name} {rendered.mean:.3f}" + (f" (real {real.mean:.3f})" if real else "")
                        for name, (rendered, real) in found.items()
                    )
                    print(f"{path.stem} {NAMES[region.level]}: {shown}", flush=True)
    print(f"\n{len(measured)} regions of {SIDE} px of {len(paths)} slides, method {given.method}:")
    print("level  lattice    regions   drawn: mean, worst region, line   real: the same")
    for (level, name), pairs in sorted(lines.items()):
        rendered, real = ([p for pair in pairs if (p := pair[i])] for i in range(2))
        stored = "stored" if level == STORED else ""
        print(
            f"{NAMES[level]:>5}  {name:9} {len(pairs):7}     {stats(rendered)}          "
            f"{stats(real)}  {stored}"
        )
    if given.sheet:
        fine = [
            (r.slide, r.corner, r.rendered, r.real)
            for r in measured
            if r.level == 0 and r.real is not None
        ]
        draw_borders(fine, STRIDE * SCALE).save(given.sheet, quality=85, optimize=True)


if __name__ == "__main__":
    main()
