"""Whether contexts drawn like a tile are of that tile's slide, by guidance.

    python benchmarks/like.py ARCHIVES [--only crohn,signet] [--level 20x] [--each 8]

For tiles of each archive a context is drawn with the tile as reference. Counted is how often the
slide whose mean context (standardised, over its 64 tokens) is nearest is the tile's own; chance is
one over the number of archives. Real contexts of the same patches are the most to be had.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from zoomldm.archive import open_archive
from zoomldm.data.contexts import ContextStore
from zoomldm.geometry.levels import parse_level
from zoomldm.pipeline import load_pipeline
from zoomldm.sampling.options import SampleOptions
from zoomldm.sampling.sampler import Sampler

GUIDANCE = (1.0, 2.0, 4.0, 7.0)


def main() -> None:
    """Draw and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archives", type=Path)
    parser.add_argument("--only", default="", help="starts of names, with commas")
    parser.add_argument("--level", default="20x")
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--pipeline", default="demo")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    level, starts = parse_level(arguments.level), tuple(arguments.only.split(","))
    pipeline = load_pipeline(arguments.pipeline)
    opened = [open_archive(path) for path in sorted(arguments.archives.glob("*.zldm"))]
    opened = [a for a in opened if not a.turn and a.path.name.startswith(starts)]
    store = ContextStore(pipeline, opened, 0.0, most=1200, hold="contexts")
    held, rng = store.levels[level], np.random.default_rng(0)
    own = held.patches[:, 0]
    network = pipeline.embedding_diffusion

    def means(contexts: torch.Tensor) -> np.ndarray:
        return network.standardised(contexts, level).mean(1).numpy()

    every = means(torch.from_numpy(held.contexts))
    centres = np.stack([every[own == k].mean(0) for k in range(len(opened))])
    deviation = every.std(0)
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(own == k), arguments.each, replace=False)
            for k in range(len(opened))
        ]
    )
    references = np.stack([store.reference(level, int(i), rng) for i in chosen])

    def accuracy(contexts: torch.Tensor) -> float:
        apart = np.square((means(contexts)[:, None] - centres) / deviation).sum(2)
        return float((apart.argmin(1) == own[chosen]).mean())

    print(f"{len(opened)} archives, {len(chosen)} tiles, {arguments.level}")
    print(f"real contexts           {accuracy(torch.from_numpy(held.contexts[chosen])):.2f}")
    plain = Sampler(pipeline, SampleOptions(batch=16))
    print(f"without a reference     {accuracy(plain.contexts(level, len(chosen))):.2f}")
    for guidance in GUIDANCE:
        sampler = Sampler(pipeline, SampleOptions(batch=16, context_guidance=guidance))
        contexts = sampler.contexts(level, len(chosen), reference=references)
        print(f"reference, guidance {guidance:g}   {accuracy(contexts):.2f}", flush=True)


if __name__ == "__main__":
    main()
