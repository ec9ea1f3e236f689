"""Seconds per generated patch, by precision and batch, side by side.

Usage: python benchmarks/render_speed.py [--archive ARCHIVE] [--side 1024] [--runs 3]

The same region of an archive is rendered at 20x, parents included, in turn by every choice, each
from an empty cascade; medians are printed, and how far the pixels are from those of float32.
"""

import argparse
import statistics
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from zoomldm.archive import open_archive
from zoomldm.geometry.lattice import densest_region
from zoomldm.pipeline import load_pipeline
from zoomldm.rendering import Cascade, RenderOptions

CHOICES = (("float32", 1), ("float32", 4), ("bfloat16", 1), ("bfloat16", 4), ("bfloat16", 16))


def main() -> None:
    """Render, compare, print."""
    shipped = Path(str(resources.files("zoomldm") / "weights" / "demo.zldm"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, default=shipped)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    pipeline = load_pipeline()
    seconds: dict[tuple[str, int], list[float]] = {choice: [] for choice in CHOICES}
    pictures: dict[tuple[str, int], np.ndarray] = {}
    with open_archive(given.archive) as archive:
        x, y, w, h = densest_region(archive.mask, archive.size, given.side)
        for _ in range(given.runs):
            for precision, batch in CHOICES:
                options = RenderOptions(precision=precision, batch=batch)  # type: ignore[arg-type]
                with Cascade(archive, pipeline, options) as cascade:
                    count = sum(n.generated for n in cascade.count({0: (x, y, w, h)}).values())
                    start = time.monotonic()
                    pictures[precision, batch] = cascade.read(0, x, y, w, h)
                    seconds[precision, batch].append(time.monotonic() - start)
    first = pictures[CHOICES[0]].astype(int)
    print(
        f"{given.archive.name}: {w} x {h} px at 20x, {count} patches generated, "
        f"{pipeline.device.type}, {torch.get_num_threads()} thread(s), 20 steps, guidance 1.5"
    )
    base = statistics.median(seconds[CHOICES[0]])
    for choice in CHOICES:
        middle = statistics.median(seconds[choice])
        apart = np.abs(first - pictures[choice]).mean()
        print(
            f"  {choice[0]:<9} batch {choice[1]:>2}   {middle / count:.3f} s a patch   "
            f"{base / middle:.2f} times as fast   mean difference {apart:.2f} of 255"
        )


if __name__ == "__main__":
    main()
