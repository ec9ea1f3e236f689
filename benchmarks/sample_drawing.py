"""What evaluations of the denoiser buy in samples: images under real contexts, level by level.

    python benchmarks/sample_drawing.py SLIDE ARCHIVE [--levels 0 1 2] [--patches 48]

Patches of the slide with most tissue, laid edge to edge, are drawn under the contexts of their
embeddings: by the scheduler as `ZoomLDMPipeline.__call__` does (DDIM, 20 steps, guidance 1.5), and
by DPM-Solver++ 2M from the linear head (`zoomldm.generation.octaves.make_latents`) with some steps
and scales of guidance. Printed are Fréchet distance by public features and by the judge, the
judge's retrieval, nuclei over the slide's, and seconds. Choose on slides of training cases.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from zoomldm import load_pipeline, open_archive
from zoomldm.evaluation.distances import frechet, scaled
from zoomldm.evaluation.judge import Describe, load_judge
from zoomldm.evaluation.nuclei import find_nuclei
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.generation.octaves import Known, make_latents, octave_times
from zoomldm.geometry.levels import NAMES, TILE
from zoomldm.pixels import to_pixels
from zoomldm.slides import open_slide

CHOICES = ((6, 1.0), (8, 1.0), (12, 1.0), (8, 1.25), (8, 1.5), (12, 1.5))


class RowPrinter:
    """Prints a row for what was drawn of a level.

    Args:
        level: 0..7.
        real: (n, 256, 256, 3) uint8.
        public: features.
        judge: features.
    """

    def __init__(
        self, level: int, real: np.ndarray, public: PublicFeatures, judge: Describe
    ) -> None:
        self.level, self.public, self.judge = level, public, judge
        self.known = public(real), judge(real)
        self.nuclei = np.mean([find_nuclei(p).density for p in real])

    def __call__(self, name: str, images: np.ndarray, seconds: float) -> None:
        """The row of images (n, 256, 256, 3) uint8."""
        a, b = scaled(self.known[0], self.public(images))
        c, d = scaled(self.known[1], self.judge(images))
        nearest = np.square(d[:, None] - c).sum(-1).argmin(1) == np.arange(len(c))
        found = np.mean([find_nuclei(p).density for p in images])
        print(
            f"| {NAMES[self.level]} | {name} | {seconds:.0f} | {frechet(a, b):.0f} | "
            f"{frechet(c, d):.0f} | {100 * nearest.mean():.0f} | {found / self.nuclei:.2f} |",
            flush=True,
        )


def main() -> None:
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--levels", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--patches", type=int, default=48)
    parser.add_argument("--pipeline", default="demo")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(given.pipeline, "cpu")
    public, judge = PublicFeatures(), load_judge(None, pipeline.device)
    print("| level | drawn by | seconds | Fréchet | judge's | retrieval (%) | nuclei |")
    print("|---|---|---|---|---|---|---|")
    for level in given.levels:
        side = 1 << level
        with open_archive(given.archive) as archive, open_slide(given.slide) as slide:
            rows, cols = (n // side for n in archive.mask.shape)
            mask = archive.mask[: rows * side, : cols * side]
            tissue = mask.reshape(rows, side, cols, side).mean((1, 3))
            best = np.argsort(-tissue.ravel(), kind="stable")[: given.patches]
            places = [divmod(int(i), cols) for i in best if tissue.ravel()[i] > 0.3]
            grids = np.stack([archive.grid(level, r, c) for r, c in places])
            real = np.stack([slide.read(level, c * TILE, r * TILE, TILE, TILE) for r, c in places])
        context = pipeline.context(grids, level)
        noise = torch.randn(len(real), *pipeline.latent_shape, generator=torch.manual_seed(0))
        print_row = RowPrinter(level, real, public, judge)
        began = time.monotonic()
        images = [
            pipeline(
                context=context[i : i + 1],
                latents=noise[i : i + 1],
                level=level,
                num_inference_steps=20,
                guidance_scale=1.5,
                output_type="pt",
            ).images
            for i in range(len(real))
        ]
        print_row("DDIM, 20, guidance 1.5", to_pixels(torch.cat(images)), time.monotonic() - began)
        for steps, guidance in CHOICES:
            began, images = time.monotonic(), []
            times = octave_times(pipeline.unet.alphas, steps)
            for i in range(len(real)):
                part = Known(level, context[i : i + 1])
                latents = make_latents(pipeline.unet, part, noise[i : i + 1], times, guidance)
                images.append(pipeline.decode_latents(latents, level))
            name = f"DPM-Solver++ 2M, {steps}, guidance {guidance:g}"
            print_row(name, to_pixels(torch.cat(images)), time.monotonic() - began)


if __name__ == "__main__":
    main()
