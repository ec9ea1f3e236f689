"""Write packed slides back as tiled pyramidal TIFFs that every verb and benchmark reads.

    python benchmarks/demo_weights/unpack.py PACKED ARCHIVES -o FOLDER [--names NAME...]

For measurements on machines without the slides: each file has the name of its slide, its
size and scale (from its archive), tissue and the tiles beside it; everything else is white.
The pixels went through two lossy codecs.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from packed import read_packed
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.geometry.levels import BASE_MPP, TILE

QUALITY = 95
SMALLEST = 512  # px; the pyramid ends at this size


def tiles_of(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Tiles (256, 256, 3) of an image, padded with white."""
    rows, cols = (-(-n // TILE) for n in picture.shape[:2])
    for row in range(rows):
        for col in range(cols):
            part = picture[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
            short = TILE - part.shape[0], TILE - part.shape[1]
            yield np.pad(part, ((0, short[0]), (0, short[1]), (0, 0)), constant_values=255)


def write_slide(path: Path, pixels: np.ndarray) -> None:
    """Write a pyramid of an image (h, w, 3) at 0.5 mpp, which OpenSlide reads as a generic TIFF."""
    image, number = Image.fromarray(pixels), 0
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        while True:
            scale = 1e4 / (BASE_MPP * 2**number)
            tiff.write(
                tiles_of(np.asarray(image)),
                shape=(image.height, image.width, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                maxworkers=1,
                subfiletype=1 if number else 0,
                resolution=(scale, scale),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=None,
            )
            if max(image.size) <= SMALLEST:
                return
            image, number = image.reduce(2), number + 1


def unpack(packed: Path, archives: Path, out: Path, name: str) -> Path:
    """Write one slide and return its file."""
    with open_archive(archives / f"{name}.zldm") as archive:
        target, (width, height) = out / archive.manifest.slide.name, archive.size
    slide = read_packed(packed, threads=2, names=[name])[0]
    part = target.with_suffix(".part")
    write_slide(part, slide.mosaic[:height, :width].numpy())
    return part.rename(target)


def main() -> None:
    """Write one file per slide, several at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packed", type=Path)
    parser.add_argument("archives", type=Path)
    parser.add_argument("--names", nargs="*", help="of slides, without the suffix; all of them")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args()
    names = given.names or sorted(path.stem for path in given.packed.glob("*.npz"))
    given.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.workers) as pool:
        count = len(names)
        work = pool.map(
            unpack, [given.packed] * count, [given.archives] * count, [given.out] * count, names
        )
        for path in work:
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
