"""Sizes of archives with the default options, and how well their embeddings are kept.

Usage: python benchmarks/archive_size.py SLIDE... [--pipeline demo]

Each slide is compressed to int8 with an overview at 1.25x, once more to float16 without one, and
the embeddings of both are compared by cosine. Prints a Markdown table; exit code 1 if a slide
misses an aim: 1/40 of its file, 1/50 without overview, cosine 0.999.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from zoomldm.archive import open_archive
from zoomldm.archive.quantise import cosines
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.pipeline import load_pipeline


def tiles(path: Path) -> np.ndarray:
    """Embeddings (n, D) of an archive's tissue tiles."""
    with open_archive(path) as archive:
        return archive.embeddings(0, archive.rows, 0, archive.cols)[archive.mask]


def main() -> int:
    """Compress, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--pipeline", default="demo")
    given = parser.parse_args()
    pipeline = load_pipeline(given.pipeline)
    print("| slide | tissue tiles | slide | archive | ratio | without overview | worst cosine |")
    print("|---|---|---|---|---|---|---|")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for slide in given.slides:
            made = []
            for name, options in (
                ("small", CompressOptions()),
                ("bare", CompressOptions(base="none")),
                ("exact", CompressOptions(base="none", precision="float16")),
            ):
                out = Path(folder) / f"{name}.zldm"
                made.append(compress(slide, out, options, pipeline=pipeline))
            small, bare, _ = made
            kept = [tiles(Path(folder) / f"{name}.zldm") for name in ("small", "exact")]
            worst = float(cosines(*kept).min())
            missed |= small.ratio < 40 or bare.ratio < 50 or worst < 0.999
            print(
                f"| {slide.stem} | {small.tissue_tiles} | {small.source_bytes / 1e6:.1f} MB | "
                f"{small.bytes / 1e3:.0f} kB | {small.ratio:.1f} | {bare.ratio:.1f} | "
                f"{worst:.5f} |",
                flush=True,
            )
            for report in made:
                Path(report.archive).unlink()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
