"""Imaginary slides against real ones: looks, tissue, and how nuclei and tiles lie.

    python benchmarks/imaginary.py SLIDE... -o IMAGINARY.jpg [--training SLIDE...] [--seeds 2]

Printed are, for real and for imaginary slides, each with a 95 % interval over patches or crops:
the Fréchet distance (of the judge's features, at equal n) of each level's patches from the real
ones, beside that of one half of the real ones from the other; the share of tissue, and number and
size of its pieces; of nuclei in crops at 20x (--side tiles of 128 um) their density,
nearest-neighbour distance and Ripley's L(r) - r up to 500 um, as far as crops reach; the cosines
of tiles' embeddings by their distance, and the length over which they fall to 1/e; and differences
across the lattices of windows and tiles over those inside (1: no seam). With --training, how many
imaginary patches are nearer to a patch of these slides than 1 in 100 real ones is. Patches are
those with most tissue, spread evenly over them. The image shows each imaginary slide as a whole,
then its densest place at 1.25x, 5x and 20x.

Most of the time goes into tiles drawn at 20x: --crops of --side x --side, and of --patches at the
levels 0 (one each) and 1 (four each). --seeds 1 --crops 1 --patches 8 is about a quarter of it.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import KDTree

from zoomldm import SlideOptions, load_pipeline, open_archive, sample_slide
from zoomldm.evaluation.distances import frechet_interval, scaled
from zoomldm.evaluation.fidelity import seams
from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.nuclei import find_nuclei
from zoomldm.evaluation.readers import Reads
from zoomldm.generation.options import RenderOptions
from zoomldm.generation.windows import STRIDE
from zoomldm.geometry.lattice import tiles_within, tissue_patches
from zoomldm.geometry.levels import BASE_MPP, NAMES, TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering.opening import open_renderer
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue
from zoomldm.statistics import bootstrap

RADII = (10, 20, 40, 80, 160, 250, 500)  # um
LEAST = 8  # patches that a distance is taken of


class Slide(NamedTuple):
    """Pixels and the tiles that are tissue."""

    pixels: Reads
    mask: np.ndarray


def patches_of(slides: Sequence[Slide], level: int, most: int) -> np.ndarray:
    """Patches (n, 256, 256, 3) of a level, at most `most` of all slides together."""
    found = []
    for slide in slides:
        places = tissue_patches(slide.mask, level)
        places = places[places[:, 2] >= 0.25 * places[:, 2].max(initial=1)]
        count = min(len(places), -(-most // len(slides)))
        for i in np.linspace(0, len(places) - 1, count).astype(int):
            row, col = places[i, :2].tolist()
            found.append(slide.pixels.read(level, col * TILE, row * TILE, TILE, TILE))
    return np.stack(found[:most]) if found else np.empty((0, TILE, TILE, 3), np.uint8)


class Crop(NamedTuple):
    """A square of tiles at 20x, and where it begins (px)."""

    x: int
    y: int
    pixels: np.ndarray


def crops_of(slide: Slide, count: int, tiles: int) -> list[Crop]:
    """Those of tiles x tiles with most tissue that do not overlap."""
    mask, found = slide.mask.copy(), []
    rows, cols = (np.arange(max(1, n - tiles + 1)) for n in mask.shape)
    for _ in range(count):
        inside = tiles_within(mask, rows[:, None], cols, tiles)
        row, col = (int(v) for v in np.unravel_index(int(inside.argmax()), inside.shape))
        mask[row : row + tiles, col : col + tiles] = False
        side = tiles * TILE
        x, y = col * TILE, row * TILE
        found.append(Crop(x, y, slide.pixels.read(0, x, y, side, side)))
    return found


def seam_summary(crops: Sequence[Crop]) -> str:
    """Differences across the lattices of windows and of tiles over those inside."""
    found = [
        summary([seams(c.pixels, period, (c.x, c.y)).mean for c in crops])
        for period in (STRIDE * 4, TILE)
    ]
    return f"across windows {found[0]}, across tiles {found[1]}"


def ripley(points: np.ndarray, side: float) -> list[float]:
    """L(r) - r in um at RADII below the side, of points (n, 2) in a square.

    Each pair counts by one over the share of the square in which it could lie (translation
    correction, Ohser 1983), so that pairs are not missed at the border.
    """
    out, count = [], len(points)
    pairs = KDTree(points).query_pairs(RADII[-1], output_type="ndarray") if count > 2 else []
    for radius in RADII:
        if count < 3 or radius >= side:
            out.append(float("nan"))
            continue
        apart = np.abs(points[pairs[:, 0]] - points[pairs[:, 1]])  # type: ignore[index]
        apart = apart[np.square(apart).sum(1) <= radius**2]
        weight = 2 * (side**2 / (side - apart).prod(1)).sum() / (count * (count - 1))
        out.append(float(side * np.sqrt(weight / np.pi) - radius))
    return out


def alike(crops: Sequence[np.ndarray], pipeline: ZoomLDMPipeline) -> np.ndarray:
    """Mean cosine (crops, lags) of tiles' embeddings about their mean, by distance in tiles."""
    side = crops[0].shape[0] // TILE
    tiles = np.stack(
        [
            c.reshape(side, TILE, side, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
            for c in crops
        ]
    )
    values = np.stack([pipeline.encode_tiles(t) for t in tiles]).reshape(len(crops), side, side, -1)
    values = values - values.mean((0, 1, 2))
    values /= np.linalg.norm(values, axis=-1, keepdims=True) + 1e-9
    out = []
    for lag in range(side):
        across = (values[:, :, : side - lag] * values[:, :, lag:]).sum(-1).mean((1, 2))
        down = (values[:, : side - lag] * values[:, lag:]).sum(-1).mean((1, 2))
        out.append((across + down) / 2)
    return np.stack(out, 1)


def correlation_length(cosines: np.ndarray) -> float:
    """Length (um) over which cosines by distance in tiles fall to 1/e; nan where they do not.

    The exponential through 1 at no distance, by least squares of its logarithm on the lags before
    the first one below 0.02.
    """
    low = np.flatnonzero(cosines < 0.02)
    lags = np.arange(1, low[0] if len(low) else len(cosines))
    if not len(lags):
        return float("nan")
    slope = -(lags * np.log(cosines[lags])).sum() / np.square(lags).sum()
    return float(TILE * BASE_MPP / slope) if slope > 0 else float("nan")


def summary(values: Sequence[float]) -> str:
    """Mean and interval of values."""
    known = np.array([v for v in values if np.isfinite(v)])
    if not len(known):
        return "-"
    low, high = bootstrap(known)
    return f"{known.mean():.2f} [{low:.2f}, {high:.2f}]"


def tissue_rows(name: str, slides: Sequence[Slide]) -> None:
    """Share of tissue, number and size of its pieces."""
    fractions, counts, areas = [], [], []
    for slide in slides:
        labels, count = ndimage.label(slide.mask, np.ones((3, 3)))  # type: ignore[misc]
        fractions.append(float(slide.mask.mean()))
        counts.append(count)
        sizes = np.bincount(labels.ravel())[1:] * (TILE * BASE_MPP / 1000) ** 2
        areas += sizes.tolist()
    print(
        f"| {name} | {summary(fractions)} | {summary(counts)} | {summary(areas)} "
        f"| {np.median(areas):.2f} |"
    )


def nuclei_rows(name: str, crops: Sequence[np.ndarray], pipeline: ZoomLDMPipeline) -> None:
    """How nuclei and tiles lie in crops."""
    density, near, spread = [], [], []
    side = crops[0].shape[0] * BASE_MPP
    for crop in crops:
        found = find_nuclei(crop)
        density.append(found.density)
        spread.append(ripley(found.centroids, side))
        if len(found) > 1:
            near += KDTree(found.centroids).query(found.centroids, 2)[0][:, 1].tolist()
    lengths = " | ".join(summary([s[i] for s in spread]) for i in range(len(RADII)))
    print(f"| {name} | {summary(density)} | {summary(near)} | {lengths} |")
    cosines = alike(crops, pipeline)
    apart = ", ".join(summary(c) for c in cosines.T[1:])
    length = summary([correlation_length(c) for c in cosines])
    print(f"({name}: cosine by tiles apart {apart}; correlation length {length} um)")


def copies(generated: np.ndarray, real: np.ndarray, training: np.ndarray) -> str:
    """Generated patches nearer to a training patch than 1 in 100 real ones is, as "n of m"."""
    _, training, generated, real = scaled(training, training, generated, real)
    near = [KDTree(training).query(v)[0] for v in (generated, real)]
    limit = np.percentile(near[1], 1)
    return f"{int((near[0] < limit).sum())} of {len(generated)}"


def shown(slide: Slide, height: int = 256) -> np.ndarray:
    """A slide as a whole, then its densest place at 1.25x, 5x and 20x."""
    rows, cols = slide.mask.shape
    whole = slide.pixels.read(6, 0, 0, cols * TILE >> 6, rows * TILE >> 6)
    image = Image.fromarray(whole).resize((round(height * cols / rows), height))
    weight = ndimage.uniform_filter(slide.mask.astype(float), 9)
    row, col = np.unravel_index(int((weight * slide.mask).argmax()), slide.mask.shape)
    parts = [np.asarray(image)]
    for level in (4, 2, 0):
        x, y = ((int(n) * TILE + TILE // 2 >> level) - height // 2 for n in (col, row))
        parts.append(slide.pixels.read(level, x, y, height, height))
    return np.hstack(parts)


def main() -> None:
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--training", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", default="4x3")
    parser.add_argument("--like")
    parser.add_argument("--patches", type=int, default=16)
    parser.add_argument("--crops", type=int, default=2)
    parser.add_argument("--side", type=int, default=4, help="of a crop, in tiles")
    parser.add_argument("--levels", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--render-steps", type=int, default=None)
    parser.add_argument("--batch", type=int, default=None, help="windows a call, while drawing")
    parser.add_argument("--image-only", action="store_true", help="no figures")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    pipeline = load_pipeline(arguments.pipeline, arguments.device)
    describe = load_judge(None, pipeline.device)
    width, height = (float(v) for v in arguments.size.split("x"))

    def read(paths: Sequence[Path]) -> list[Slide]:
        opened = [open_slide(path) for path in paths]
        return [Slide(s, find_tissue(s, "otsu").mask) for s in opened]

    real, training, imaginary = read(arguments.slides), read(arguments.training), []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for seed in range(arguments.seeds):
            options = SlideOptions((width, height), like=arguments.like, seed=seed)
            report = sample_slide(Path(folder) / f"{seed}.zldm", options, pipeline=pipeline)
            print(
                f"seed {seed}: {report.tissue_tiles} tissue tiles, {report.seconds:.0f} s",
                flush=True,
            )
            archive = stack.enter_context(open_archive(report.output))
            steps = RenderOptions(steps=arguments.render_steps, batch=arguments.batch)
            renderer = stack.enter_context(open_renderer(archive, pipeline, steps))
            imaginary.append(Slide(renderer, archive.mask))
        rows = [shown(slide) for slide in imaginary]
        wide = max(r.shape[1] for r in rows)
        padded = [
            np.pad(r, ((0, 0), (0, wide - r.shape[1]), (0, 0)), constant_values=255) for r in rows
        ]
        Image.fromarray(np.vstack(padded)).save(arguments.out, quality=88)
        if arguments.image_only:
            return
        print("\n| | share of tissue | pieces | mm2 a piece | median |\n|---|---|---|---|---|")
        tissue_rows("real", real)
        tissue_rows("imaginary", imaginary)
        print(
            "\n| level | n | Fréchet of imaginary | of other real patches | copies |\n"
            "|---|---|---|---|---|"
        )
        for level in arguments.levels:
            pair = (
                patches_of(real, level, 2 * arguments.patches),
                patches_of(imaginary, level, arguments.patches),
            )
            n = min(len(pair[0]) // 2, len(pair[1]), arguments.patches)
            if n < LEAST:
                print(f"| {NAMES[level]} | {n} | - | - | - |")
                continue
            a, b, c = (
                describe(p) for p in (pair[0][: 2 * n : 2], pair[0][1 : 2 * n : 2], pair[1][:n])
            )
            _, other, own = scaled(a, b, c)
            base = scaled(a)[0]
            cells = [
                f"{f.value:.2f} [{f.low:.2f}, {f.high:.2f}]"
                for f in (frechet_interval(base, v) for v in (own, other))
            ]
            seen = "-"
            if training:
                seen = copies(c, np.concatenate([a, b]), describe(patches_of(training, level, 256)))
            print(f"| {NAMES[level]} | {n} | {cells[0]} | {cells[1]} | {seen} |", flush=True)
        print(
            f"\n| | nuclei per mm2 | nearest (um) | "
            f"{' | '.join(f'L({r}) - {r}' for r in RADII)} |\n|{'---|' * (3 + len(RADII))}"
        )
        for name, slides in (("real", real), ("imaginary", imaginary)):
            crops = [
                c for slide in slides for c in crops_of(slide, arguments.crops, arguments.side)
            ]
            nuclei_rows(name, [c.pixels for c in crops], pipeline)
            print(f"({name}: {seam_summary(crops)})", flush=True)


if __name__ == "__main__":
    main()
