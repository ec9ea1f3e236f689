"""Sizes of archives with the default options, and how well their embeddings are kept.

Usage: python benchmarks/archive_size.py SLIDE... [--pipeline demo] [--keep FOLDER]

Prints a Markdown table; exit code 1 if an aim is missed: 1/40 of every slide's file and 1/45
of them in the mean, cosine 0.999.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from zoomldm.compression.compress import compress
from zoomldm.pipeline import load_pipeline

HEAD = (
    "| slide | tissue tiles | slide | archive | ratio | base layer | quality | bytes a tile: "
    "embeddings, base | worst cosine |"
)


def main() -> int:
    """Compress and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--keep", type=Path, help="existing folder in which the archives stay")
    given = parser.parse_args()
    pipeline = load_pipeline(given.pipeline)
    print(HEAD)
    print("|---|---|---|---|---|---|---|---|---|")
    ratios, worst = [], 1.0
    with tempfile.TemporaryDirectory() as folder:
        for slide in given.slides:
            report = compress(slide, given.keep or folder, pipeline=pipeline, name=given.pipeline)
            ratios.append(report.ratio)
            worst = min(worst, report.cosine_min)
            rest = (report.bytes - report.base_bytes) / report.tissue_tiles
            print(
                f"| {slide.stem} | {report.tissue_tiles} | {report.source_bytes / 1e6:.1f} MB | "
                f"{report.bytes / 1e3:.0f} kB | {report.ratio:.1f} | "
                f"{report.base_bytes / 1e3:.0f} kB | {report.base_quality} | {rest:.0f}, "
                f"{report.base_bytes / report.tissue_tiles:.0f} | {report.cosine_min:.5f} |",
                flush=True,
            )
    mean = sum(ratios) / len(ratios)
    print(f"\nratio: mean {mean:.1f}, least {min(ratios):.1f}")
    return int(min(ratios) < 40 or mean < 45 or worst < 0.999)


if __name__ == "__main__":
    sys.exit(main())
