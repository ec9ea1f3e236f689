"""What evaluations of the denoiser buy where nothing but embeddings is stored, solver by solver.

    python benchmarks/drawing.py SLIDE ARCHIVE [--only "even, 6" ...]

ARCHIVE is made with `--base none`. The squares of 1,024 px with most tissue are drawn at 20x, all
octaves anew, by DDIM and DPM-Solver++ 2M at timesteps that are even in time or in the log of signal
over noise, down to `--last`. Printed are Fréchet distance by public features and by the judge,
the judge's retrieval, the cosine of the patch encoder's embeddings about their mean, nuclei a
square millimetre, and the contrast of means of 4 x 4 px over the slide's. Choose on slides of
training cases, not on others.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from imaginary import Slide, crops_of
from steps import even_times

from zoomldm import load_pipeline, open_archive
from zoomldm.diffusion.multistep import Multistep, spread_times
from zoomldm.evaluation.distances import frechet, scaled
from zoomldm.evaluation.fidelity import averaged, luminance
from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.nuclei import find_nuclei
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.generation import octaves
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.levels import TILE
from zoomldm.rendering import latents
from zoomldm.rendering.opening import open_renderer
from zoomldm.slides import open_slide

SIDE = 4  # tiles a side of a square


def tiles_of(squares: list[np.ndarray]) -> np.ndarray:
    """Tiles (n, 256, 256, 3) of squares."""
    shape = SIDE, TILE, SIDE, TILE, 3
    parts = [s.reshape(shape).swapaxes(1, 2).reshape(-1, TILE, TILE, 3) for s in squares]
    return np.concatenate(parts)


def main() -> None:
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--squares", type=int, default=3)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--only", nargs="*", help="rows whose names end so")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(given.pipeline, "cpu")
    public, judge, alphas = (
        PublicFeatures(),
        load_judge(None, pipeline.device),
        pipeline.unet.alphas,
    )
    with open_archive(given.archive) as archive, open_slide(given.slide) as slide:
        crops = crops_of(Slide(slide, archive.mask.copy()), given.squares, SIDE)
    real = [c.pixels for c in crops]
    tiles = tiles_of(real)
    known = public(tiles), judge(tiles), pipeline.encode_tiles(tiles)
    names = {1: "DDIM", 2: "DPM-Solver++ 2M"}
    rows = {f"{names[o]}, even, {n}": (o, even_times(n)) for o, n in ((1, 6), (1, 12), (1, 24))}
    rows |= {f"{names[2]}, even, {n}": (2, even_times(n)) for n in (8, 12)}
    for order, count, last in (
        (1, 8, 30),
        (2, 6, 30),
        (2, 8, 30),
        (2, 5, 12),
        (2, 6, 12),
        (2, 8, 12),
    ):
        name = f"{names[order]}, even log-SNR to {last}, {count}"
        rows[name] = (order, spread_times(alphas, count, 999, last))

    def print_row(name: str, squares: list[np.ndarray], seconds: float) -> None:
        generated = tiles_of(squares)
        a, b = scaled(known[0], public(generated))
        c, d = scaled(known[1], judge(generated))
        nearest = (np.square(d[:, None] - c).sum(-1)).argmin(1) == np.arange(len(c))
        e, f = (v - known[2].mean(0) for v in (known[2], pipeline.encode_tiles(generated)))
        cosine = (e * f).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(f, axis=1)
        density = np.mean([find_nuclei(s).density for s in squares])
        contrast = [np.mean([averaged(luminance(s), 4).std() for s in v]) for v in (squares, real)]
        print(
            f"| {name} | {seconds:.0f} | {frechet(a, b):.0f} | {frechet(c, d):.0f} | "
            f"{100 * nearest.mean():.0f} | {cosine.mean():.3f} | {density:,.0f} | "
            f"{contrast[0] / contrast[1]:.2f} |",
            flush=True,
        )

    print("| drawn by | seconds | Fréchet | judge's | retrieval (%) | cosine | nuclei | contrast |")
    print("|---|---|---|---|---|---|---|---|")
    print_row("the slide", real, 0)
    for name, (order, times) in rows.items():
        if given.only and not name.endswith(tuple(given.only)):
            continue
        octaves.Multistep = partial(Multistep, order)  # type: ignore[misc]
        latents.octave_times = lambda *_, times=times: times  # type: ignore[assignment]
        began, options = time.monotonic(), RenderOptions()
        with (
            open_archive(given.archive) as archive,
            open_renderer(archive, pipeline, options) as renderer,
        ):
            squares = [renderer.read(0, c.x, c.y, SIDE * TILE, SIDE * TILE) for c in crops]
        print_row(name, squares, time.monotonic() - began)


if __name__ == "__main__":
    main()
