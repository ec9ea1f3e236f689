"""Processor time of compress beside reading, embedding, the base layer's coding and raw decoding.

Usage: python benchmarks/compress_speed.py SLIDE [--pipeline demo] [--threads 1] [--repeats 3]

The five are measured in turn, `repeats` times, in one process, after a warm-up; medians are
printed. Processor time counts all threads. OpenSlide decodes the same blocks of tiles at the
slide's own resolution, without resampling, colours or conversion to RGB.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import torch

from zoomldm.archive.base import CHUNK, stored_chunks
from zoomldm.archive.image_codecs import encode_image
from zoomldm.archive.manifest import Base
from zoomldm.compression.base import choose_level
from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.encoders import EncoderOptions
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline, build_pipeline, load_pipeline
from zoomldm.slides import open_slide
from zoomldm.slides.tiles import read_tiles, tile_boxes
from zoomldm.slides.tissue import find_tissue

AIMS = {"compress": 1.2, "reading": 2.0}


def read_alone(slide: Path, mask: np.ndarray) -> None:
    """Read every tissue tile as `compress` does."""
    with open_slide(slide) as opened:
        for _position, pixels in read_tiles(opened, mask):
            if pixels is None:
                raise SystemExit(f"{slide}: holds unreadable tiles; give another slide")


def decode_alone(slide: Path, mask: np.ndarray, scale: tuple[float, float]) -> None:
    """Have OpenSlide decode the same blocks at the slide's own resolution."""
    with openslide.OpenSlide(slide) as opened:
        for row0, row1, col0, col1 in tile_boxes(mask):
            x, y = int(col0 * TILE / scale[0]), int(row0 * TILE / scale[1])
            width = int((col1 - col0) * TILE / scale[0])
            height = int((row1 - row0) * TILE / scale[1])
            opened.read_region((x, y), 0, (width, height))


def embed_alone(pipeline: ZoomLDMPipeline, tiles: np.ndarray, count: int) -> None:
    """Embed `count` tiles in full batches, the last one padded, as `compress` does."""
    for _ in range(-(-count // EncoderOptions().batch)):
        pipeline.encode_tiles(tiles)


def chunks_of(
    slide: Path, mask: np.ndarray, quality: int | None
) -> tuple[list[np.ndarray], str, int | None]:
    """The chunks of the default base layer, with their codec and quality."""
    options = CompressOptions()
    with open_slide(slide) as opened:
        level = choose_level(opened, options.base_wanted)
        width, height = opened.level_size(level)
        base = Base(
            level=level, codec=options.base_codec, quality=quality, width=width, height=height,
            chunk=CHUNK,
        )  # fmt: skip
        return (
            [
                opened.read(level, col * CHUNK, row * CHUNK, CHUNK, CHUNK)
                for row, col in stored_chunks(base, mask)
            ],
            base.codec,
            quality,
        )


def encode_alone(chunks: list[np.ndarray], codec: str, quality: int | None) -> None:
    """Encode the base layer, its pixels being there already."""
    for chunk in chunks:
        encode_image(chunk, codec, quality)


def first_tiles(slide: Path, mask: np.ndarray) -> np.ndarray:
    """The first batch of tissue tiles."""
    tiles = []
    with open_slide(slide) as opened:
        for _position, pixels in read_tiles(opened, mask):
            tiles.append(pixels)
            if len(tiles) == EncoderOptions().batch:
                break
    return np.resize(np.stack(tiles), (EncoderOptions().batch, TILE, TILE, 3))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--pipeline", default="demo", help="`untrained`: the demo's sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = options.pipeline
    pipeline = build_pipeline("demo") if name == "untrained" else load_pipeline(name)
    with open_slide(options.slide) as opened:
        mask = find_tissue(opened).mask
        scale = (
            opened.size[0] / opened.native_size[0],
            opened.size[1] / opened.native_size[1],
        )
    count, tiles = int(mask.sum()), first_tiles(options.slide, mask)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "a.zldm"
        first = compress(options.slide, target, pipeline=pipeline, name=name)
        coded = chunks_of(options.slide, mask, first.base_quality)

        def whole() -> None:
            target.unlink(missing_ok=True)
            pipeline._digests.clear()  # as in a process of its own
            compress(options.slide, target, pipeline=pipeline, name=name)

        jobs: dict[str, Callable[[], None]] = {
            "compress": whole,
            "reading alone": lambda: read_alone(options.slide, mask),
            "embedding alone": lambda: embed_alone(pipeline, tiles, count),
            "encoding alone": lambda: encode_alone(*coded),
            "OpenSlide decoding": lambda: decode_alone(options.slide, mask, scale),
        }
        embed_alone(pipeline, tiles, EncoderOptions().batch)
        decode_alone(options.slide, mask, scale)
        spent: dict[str, list[float]] = {name: [] for name in jobs}
        walls: list[float] = []
        for _ in range(options.repeats):
            for job, run in jobs.items():
                start, wall = time.process_time(), time.perf_counter()
                run()
                spent[job].append(time.process_time() - start)
                if job == "compress":
                    walls.append(time.perf_counter() - wall)
    median = {job: statistics.median(times) for job, times in spent.items()}
    print(f"{options.slide.name}: {count} tissue tiles, {options.threads} thread(s), {name}")
    for job, seconds in median.items():
        each = ", ".join(f"{s:.2f}" for s in spent[job])
        print(f"  {job:<20} {seconds:7.2f} s processor time   (runs: {each})")
    parts = sum(median[f"{job} alone"] for job in ("reading", "embedding", "encoding"))
    ratios = {
        "compress": median["compress"] / parts,
        "reading": median["reading alone"] / median["OpenSlide decoding"],
    }
    print(f"  compress / (reading + embedding + encoding)   {ratios['compress']:.3f}   aim <= 1.2")
    print(f"  reading / OpenSlide decoding       {ratios['reading']:.3f}   aim <= 2")
    print(
        f"  tiles per second                   {count / median['compress']:.1f} of processor "
        f"time, {count / statistics.median(walls):.1f} of wall time"
    )
    raise SystemExit(any(ratios[what] > aim for what, aim in AIMS.items()))


if __name__ == "__main__":
    main()
