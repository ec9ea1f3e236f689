"""How much of the latents a pipeline's contexts tell before anything is drawn, level by level.

    python benchmarks/outline.py ARCHIVE... [--pipeline demo] [--windows 64]

Archives are such as `compress --for-training` makes, of slides that no network saw. Printed is
the share of the variance of windows' latents that the mean of the denoiser's linear head explains
from the context alone, and, where contexts hold an outline, that which the outline explains; then
the denoiser's v-losses on 16 fixed windows a level, as the stage `diffusion` logs them: without
anything, under the context, with the parent, with the base layer (AVIF 42).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from zoomldm.archive import open_archive
from zoomldm.data.rasters import RasterPatches, load_raster
from zoomldm.geometry.levels import NAMES
from zoomldm.networks.outline import SPAN, TOKENS
from zoomldm.pipeline import load_pipeline
from zoomldm.training.head_fit import latents_of
from zoomldm.training.stages.octave import OctaveStage


@torch.no_grad()
def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--windows", type=int, default=64)
    arguments = parser.parse_args()
    pipeline = load_pipeline(arguments.pipeline, arguments.device)
    channels = pipeline.outline_channels * SPAN**2
    print("| level | head (%) | outline (%) |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        archives = [open_archive(path) for path in arguments.archives]
        patches = RasterPatches(
            [load_raster(a, Path(folder), withheld_fraction=0) for a in archives]
        )
        for level, name in enumerate(NAMES):
            sampled = patches.draw(
                np.random.default_rng([3, level]), level, arguments.windows, True
            )
            pixels = torch.from_numpy(sampled.pixels).to(pipeline.device)
            latents = latents_of(pipeline.vae, pixels)
            side = 1 << level
            context = torch.cat(
                [pipeline.context(grid[None, :side, :side], level) for grid in sampled.grids]
            )
            levels = torch.full((len(latents),), level, device=latents.device)
            spread = (latents - latents.mean((0, 2, 3), keepdim=True)).square().mean()

            def explained(guess: torch.Tensor, real=latents, spread=spread) -> str:
                return f"{100 * (1 - float((real - guess).square().mean() / spread)):.0f}"

            own = "-"
            if channels:
                tokens = context[:, :, :channels].transpose(1, 2).unflatten(2, (TOKENS, TOKENS))
                own = explained(F.pixel_shuffle(tokens, SPAN))
            print(
                f"| {name} | {explained(pipeline.unet.head(context, levels)[0])} | {own} |",
                flush=True,
            )
        stage = OctaveStage(pipeline.vae, pipeline.summarizer, pipeline.unet, patches)
        found = stage.held_out()
    print("\n| level | nothing | context | parent | base layer |\n|---|---|---|---|---|")
    for name in NAMES:
        losses = (found.get(f"seen/{name}/{k}") for k in ("null", "context", "parent", "base"))
        print(f"| {name} | {' | '.join('-' if v is None else f'{v:.3f}' for v in losses)} |")


if __name__ == "__main__":
    main()
