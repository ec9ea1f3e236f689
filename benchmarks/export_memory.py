"""Peak memory of decompress against the size of the slide, for each format.

Usage: python benchmarks/export_memory.py [--sides 4096,16384] [--formats tif,zarr,dcm,dzi]
       [--workers 1] [--tissue 0.02] [--memory 256]

Archives of random embeddings with a base layer at 5x are written, then `zoomldm decompress` runs
with an untrained pipeline (`tiny-octaves`) in a process of its own, whose resident memory, its
children's included, is sampled every 50 ms. Memory that processes share is counted once for each.
What is kept for reuse grows up to `--memory` MB: with little of it small slides fill it too, and
what is left is what grows with the slide.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from random_archive import random_archive
from watching import watched

from zoomldm.pipeline import build_pipeline


def main() -> int:
    """Make, decompress, sample, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sides", default="4096,16384")
    parser.add_argument("--formats", default="tif,zarr,dcm,dzi")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tissue", type=float, default=0.02)
    parser.add_argument("--memory", type=int, default=256)
    options = parser.parse_args()
    pipeline = build_pipeline("tiny-octaves")
    code = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline.save_pretrained(folder / "pipeline")
        for side in map(int, options.sides.split(",")):
            archive = random_archive(folder, side, options.tissue, pipeline)
            for ending in options.formats.split(","):
                target = folder / f"{side}.{ending}"
                found = watched(
                    [sys.executable, "-m", "zoomldm", "decompress", str(archive), "-o", str(target),
                     "--pipeline", str(folder / "pipeline"), "--steps", "1", "--json",
                     "--workers", str(options.workers), "--memory", str(options.memory)],
                )  # fmt: skip
                outputs = [target, folder / f"{side}_files"]
                size = sum(
                    p.stat().st_size
                    for out in outputs
                    for p in ([out] if out.is_file() else out.rglob("*"))
                    if p.is_file()
                )
                print(
                    f"{side} x {side} px, tissue {options.tissue:.1%}, .{ending}, "
                    f"{options.memory} MB kept, "
                    f"{options.workers} process(es): peak {found.peak / 1e6:.0f} MB, "
                    f"{size / 1e6:.1f} MB written, {found.seconds:.0f} s, "
                    f"exit code {found.code}",
                    flush=True,
                )
                code |= found.code
    return code


if __name__ == "__main__":
    raise SystemExit(main())
