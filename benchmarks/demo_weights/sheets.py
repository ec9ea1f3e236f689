"""Sheets of sampled tissue with an embedding diffusion, and statistics of its outlines.

    python benchmarks/demo_weights/sheets.py PIPELINE WORLD OUT [--embedding-diffusion FOLDER]

The whole PIPELINE samples; WORLD is that of `embedding_diffusion.py`, for real contexts beside.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from worlds import EmbeddedSlides, Windows

from zoomldm.generation.contexts import context_noise, draw_contexts, softened
from zoomldm.generation.sheets import draw_sheet
from zoomldm.geometry.levels import COUNT, NAMES
from zoomldm.networks.context_dit import ContextDiT
from zoomldm.networks.outline import SPAN, TOKENS
from zoomldm.networks.summarizers import CNNSummarizer
from zoomldm.pipeline import load_pipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler


def main() -> None:
    """Write the sheets of a pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--embedding-diffusion", type=Path, help="in place of the pipeline's")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--each", type=int, default=24)
    parser.add_argument("--context-steps", type=int, default=50)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    given = arguments.embedding_diffusion or arguments.pipeline / "embedding_diffusion"
    network = ContextDiT.from_pretrained(str(given)).float().to(arguments.device)
    summarizer = CNNSummarizer.from_pretrained(str(arguments.pipeline / "summarizer"))
    summarizer = summarizer.float().eval().requires_grad_(False).to(arguments.device)
    windows = Windows(EmbeddedSlides(arguments.world, torch.device(arguments.device)), summarizer)
    draw_sheets(arguments, network, windows)


def draw_sheets(arguments: argparse.Namespace, network: ContextDiT, windows: Windows) -> None:
    """Write sheets with a row per level: sampled contexts, raw and softened, real ones, a zoom.

    For each level, mean differences of neighbouring cells in the outlines' luminance are printed,
    and the ratio of those across tokens to those inside.
    """
    out, count = arguments.out, arguments.each
    pipeline = load_pipeline(str(arguments.pipeline), arguments.device)
    pipeline.register_modules(embedding_diffusion=network.eval())
    options = SampleOptions(batch=8, context_steps=arguments.context_steps)
    if pipeline.device.type == "cuda":
        options = dataclasses.replace(options, batch=max(8, min(count, 64)))
    sampler, channels = Sampler(pipeline, options), pipeline.outline_channels
    images: dict[str, dict] = {name: {} for name in ("raw", "softened", "real")}
    print("level     difference of cells: real, drawn, softened; border over inside: the same")
    for level in range(COUNT):
        noise = [context_noise(options.seed, level, i, network.context_shape) for i in range(count)]
        start = torch.stack(noise).to(pipeline.device)
        raw = draw_contexts(network, level, start, arguments.context_steps)
        real = windows.draw(level, count, parents=0, withheld=bool(len(windows.withheld[level])))
        contexts = {
            "real": real.contexts.float(),
            "raw": raw,
            "softened": softened(raw, channels),
        }
        for name, given in contexts.items():
            images[name][level] = sampler.images(level, given)
        if channels:
            found = [differences(c, channels) for c in contexts.values()]
            cells = "  ".join(f"{inside:.3f}" for inside, _ in found)
            borders = "  ".join(f"{border / inside:.2f}" for inside, border in found)
            print(f"{NAMES[level]:9} {cells}   {borders}", flush=True)
    for name, pictures in images.items():
        draw_sheet(pictures).save(out / f"sheet-{name}.png")
    pictures, _ = sampler.zoom(min(count, 8))
    draw_sheet(pictures).save(out / "sheet-zoom.png")
    print("sheets:", ", ".join(str(p.name) for p in sorted(out.glob("sheet-*.png"))), flush=True)


def differences(contexts: Tensor, channels: int) -> tuple[float, float]:
    """Mean difference of neighbouring cells inside tokens, and across tokens."""
    tokens = contexts[:, :, : channels * SPAN**2].transpose(1, 2).unflatten(2, (TOKENS, TOKENS))
    latents = F.pixel_shuffle(tokens, SPAN)[:, 0]
    apart = (latents[:, :, 1:] - latents[:, :, :-1]).abs().mean((0, 1))
    across = torch.arange(len(apart), device=apart.device) % SPAN == SPAN - 1
    return float(apart[~across].mean()), float(apart[across].mean())


if __name__ == "__main__":
    main()
