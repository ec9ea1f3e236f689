"""Pack tissue tiles of slides into one small file each, for the GPU scripts in this folder.

    python benchmarks/demo_weights/pack.py SLIDE... -o FOLDER [--quality 80]

Packs tissue tiles and those beside them, in the format that `packed.py` describes.
"""

import argparse
from pathlib import Path

import numpy as np
from packed import encode_tiles, write_packed

from zoomldm.geometry.levels import TILE
from zoomldm.geometry.withheld import withheld_block
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue


def ring(mask: np.ndarray) -> np.ndarray:
    """A mask and the tiles that touch it."""
    padded = np.pad(mask, 1)
    rows, cols = mask.shape
    return np.any([padded[i : i + rows, j : j + cols] for i in range(3) for j in range(3)], 0)


def main() -> None:
    """Write one file per slide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--quality", type=int, default=80)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.slides:
        with open_slide(path) as slide:
            mask = find_tissue(slide).mask
            where = np.argwhere(ring(mask))
            tiles = (slide.read(0, c * TILE, r * TILE, TILE, TILE) for r, c in where.tolist())
            coded = encode_tiles(tiles, arguments.quality)
        target = arguments.out / f"{path.stem}.npz"
        write_packed(target, coded, where, mask, withheld_block(mask, 0.1))
        print(f"{path.stem}: {len(where)} tiles, {target.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
