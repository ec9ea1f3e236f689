"""How near a few evaluations of the embedding diffusion come to what very many give.

    python benchmarks/context_steps.py [--pipeline demo] [--seed 0]

Contexts of eight windows of an imaginary slide, over its densest place, are drawn from the same
noise under the same parents: by DDIM at even timesteps and by DPM-Solver++ 2M at `context_times`.
Printed are the mean squared error against 400 evaluations of DDIM, over their variance, and the
variance within windows over theirs.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from zoomldm import SlideOptions, load_pipeline, open_archive, sample_slide
from zoomldm.archive.manifest import Solver
from zoomldm.generation.contexts import draw_contexts
from zoomldm.generation.imagined import ImaginedContexts, quarter_of
from zoomldm.generation.windows import STRIDE
from zoomldm.geometry.levels import NAMES

LEVELS = (4, 2, 0)
ROWS: tuple[tuple[Solver, int], ...] = (
    *(("ddim", n) for n in (6, 8, 20, 50)),
    *(("dpm-solver++", n) for n in (4, 6, 8, 12, 20)),
)


def main() -> None:
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(given.pipeline, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.zldm"
        sample_slide(path, SlideOptions(seed=given.seed), pipeline=pipeline)
        with open_archive(path) as archive:
            spec, mask = archive.manifest.generated, archive.mask.copy()
    assert spec is not None
    contexts = ImaginedContexts(spec, pipeline, 8)
    full = ndimage.uniform_filter(mask.astype(float), 9) * mask
    place = np.unravel_index(int(full.argmax()), full.shape)
    cells: dict[tuple[str, int], list[str]] = {row: [] for row in ROWS}
    for level in LEVELS:
        first = [max(0, (int(n) * 64 >> level) // STRIDE) for n in place]
        keys = [(max(0, first[0] - i), max(0, first[1] - j)) for i in (0, 1) for j in range(4)]
        above = contexts.windows(level + 1, [(i // 2, j // 2) for i, j in keys])
        parent = torch.stack([quarter_of(p, k) for p, k in zip(above, keys, strict=True)])
        noise = torch.from_numpy(np.stack([contexts._noise(level, key) for key in keys]))

        def solve(solver: Solver, steps: int, level=level, noise=noise, parent=parent):
            network = pipeline.embedding_diffusion
            return draw_contexts(network, level, noise, steps, parent=parent, solver=solver)

        many = solve("ddim", 400)
        for solver, steps in ROWS:
            sampled = solve(solver, steps)
            error = float((sampled - many).square().mean() / many.var())
            within = float(sampled.var((0, 1)).mean() / many.var((0, 1)).mean())
            cells[solver, steps].append(f"{error:.4f} | {within:.2f}")
    print("| solver | evaluations | " + " | ".join(f"{NAMES[k]}: error | variance" for k in LEVELS))
    print("|---" * (2 + 2 * len(LEVELS)) + "|")
    for (solver, steps), row in cells.items():
        print(f"| {solver} | {steps} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
