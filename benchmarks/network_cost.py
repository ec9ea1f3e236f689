"""Parameters and multiply-adds of the demo's networks, per level for the summarizer.

Run: python benchmarks/network_cost.py
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from zoomldm.geometry.levels import NAMES
from zoomldm.pipeline import build_pipeline


def _cost(run) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2


def main() -> None:
    """Print two tables in Markdown."""
    pipeline = build_pipeline("demo")
    channels, height, width = pipeline.latent_shape
    tokens, dim = pipeline.summarizer.context_shape
    picture = torch.zeros(1, 3, 256, 256)
    latents, context = torch.zeros(1, channels, height, width), torch.zeros(1, tokens, dim)
    calls = {
        "vae": lambda: pipeline.vae(picture),
        "patch_encoder": lambda: pipeline.patch_encoder(picture),
        "unet": lambda: pipeline.unet(latents, torch.tensor([5]), context),
    }
    print("| network | parameters | multiply-adds per patch (10^9) |\n|---|---|---|")
    for name, call in calls.items():
        count = sum(p.numel() for p in getattr(pipeline, name).parameters())
        print(f"| {name} | {count:,} | {_cost(call) / 1e9:.3f} |")
    count = sum(p.numel() for p in pipeline.summarizer.parameters())
    held = sum(b.numel() for b in pipeline.summarizer.outline.buffers())
    print(f"\nSummarizer: {count:,} parameters, and {held:,} of the outline, which are fitted.\n")
    print("| level | grid | multiply-adds (10^9) |\n|---|---|---|")
    for level, name in enumerate(NAMES):
        side = 2**level
        grid = torch.zeros(1, side, side, pipeline.embedding_dim)
        cost = _cost(lambda g=grid, k=level: pipeline.summarizer(g, torch.tensor([k])))
        print(f"| {name} | {side} x {side} | {cost / 1e9:.3f} |")


if __name__ == "__main__":
    main()
