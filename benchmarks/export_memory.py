"""Peak memory of decompress against the size of the slide, for each format.

Usage: python benchmarks/export_memory.py [--sides 4096,16384] [--formats tif,zarr,dcm,dzi]
       [--workers 1] [--tissue 0.02]

Archives of random embeddings with a base layer at 5x are written, then `zoomldm decompress` runs
with an untrained pipeline (`tiny-octaves`) in a process of its own, whose resident memory, its
children's included, is sampled every 50 ms. Memory that processes share is counted once for each.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from watching import watched

from zoomldm.archive import Encoder, Header, SlideInfo, TissueInfo, write_archive
from zoomldm.geometry.levels import grid_shape, level_size
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline

BASE = 2


def made(folder: Path, side: int, tissue: float, pipeline: ZoomLDMPipeline) -> Path:
    """An archive of a square slide whose tissue is one square in its middle."""
    rng = np.random.default_rng(0)
    rows, _ = grid_shape(side, side)
    half = max(1, round(rows * tissue**0.5 / 2))
    middle = range(max(0, rows // 2 - half), min(rows, rows // 2 + half))
    positions = np.array([(r, c) for r in middle for c in middle])
    dim = pipeline.embedding_dim
    header = Header(
        slide=SlideInfo(
            name="made.svs",
            file_bytes=1,
            native_size=(side, side),
            size=(side, side),
            mpp_x=0.5,
            mpp_y=0.5,
            mpp_source="option",
            vendor="aperio",
            icc=None,
        ),
        tissue=TissueInfo(mode="otsu", threshold=0.1, view_mpp=8.0),
        encoder=Encoder(id="tiny-octaves", digest=pipeline.digest("patch_encoder"), dim=dim),
        autoencoder=None,
        pipeline=None,
        creator="benchmark",
    )
    wide, high = level_size(side, side, BASE)
    coarse = rng.integers(120, 250, (high // 8 + 1, wide // 8 + 1, 3), np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)[:high, :wide]
    path = folder / f"{side}.zldm"
    write_archive(
        path,
        header,
        positions,
        rng.standard_normal((len(positions), dim)).astype(np.float32),
        np.zeros(dim, np.float32) + np.linspace(-1, 1, dim, dtype=np.float32),
        base=(BASE, picture),
        base_codec="jpeg",
        base_quality=60,
    )
    return path


def main() -> int:
    """Make, decompress, sample, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sides", default="4096,16384")
    parser.add_argument("--formats", default="tif,zarr,dcm,dzi")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tissue", type=float, default=0.02)
    options = parser.parse_args()
    pipeline = build_pipeline("tiny-octaves")
    code = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline.save_pretrained(folder / "pipeline")
        for side in map(int, options.sides.split(",")):
            archive = made(folder, side, options.tissue, pipeline)
            for ending in options.formats.split(","):
                target = folder / f"{side}.{ending}"
                found = watched(
                    [sys.executable, "-m", "zoomldm", "decompress", str(archive), "-o", str(target),
                     "--pipeline", str(folder / "pipeline"), "--steps", "1", "--json",
                     "--workers", str(options.workers)],
                )  # fmt: skip
                outputs = [target, folder / f"{side}_files"]
                size = sum(
                    p.stat().st_size
                    for out in outputs
                    for p in ([out] if out.is_file() else out.rglob("*"))
                    if p.is_file()
                )
                print(
                    f"{side} x {side} px, tissue {options.tissue:.0%}, .{ending}, "
                    f"{options.workers} process(es): peak {found.peak / 1e6:.0f} MB, "
                    f"{size / 1e6:.1f} MB written, {found.seconds:.0f} s, "
                    f"exit code {found.code}",
                    flush=True,
                )
                code |= found.code
    return code


if __name__ == "__main__":
    raise SystemExit(main())
