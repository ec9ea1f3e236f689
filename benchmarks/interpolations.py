"""A strip of tissue between two places: its image, and how alike what is drawn is to both ends.

    python benchmarks/interpolations.py ARCHIVE -o STRIP.jpg [--steps 6] [--side 2]

The two places are the squares of whole tissue whose mean embeddings are least alike. The strip
is made by `zoomldm.edit`, drawn at 20x, and its tiles are described by the pipeline's patch
encoder: printed are their mean cosines to the embeddings at both ends.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from zoomldm import EditOptions, edit, load_pipeline, open_archive
from zoomldm.archive.quantise import cosines
from zoomldm.editing.places import Block, Place, embeddings_of
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import TILE
from zoomldm.rendering.opening import open_renderer


def farthest(path: Path, side: int) -> tuple[Place, Place]:
    """Corners of two squares whose mean embeddings have the least cosine."""
    with open_archive(path) as archive:
        rows, cols = (np.arange(0, n - side + 1) for n in (archive.rows, archive.cols))
        inside = tiles_within(archive.mask, rows[:, None], cols, side)
        places = np.argwhere(inside == side * side)
        means = np.stack(
            [
                embeddings_of(archive, Block(int(r), int(c), side, side)).mean((0, 1))
                for r, c in places
            ]
        )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    i, j = np.unravel_index(int((means @ means.T).argmin()), (len(means),) * 2)
    a, b = (Place(None, int(c) * TILE, int(r) * TILE) for r, c in places[[i, j]])
    return a, b


def main() -> None:
    """Edit, draw, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--side", type=int, default=2)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    side, pipeline = arguments.side, load_pipeline(arguments.pipeline, arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        ends = farthest(arguments.archive, side)
        options = EditOptions(between=ends, steps=arguments.steps, side=side)
        report = edit(arguments.archive, Path(folder) / "strip.zldm", options)
        with open_archive(report.output) as strip, open_renderer(strip, pipeline) as renderer:
            pixels = renderer.read(0, 0, 0, *renderer.size(0))
            stored = embeddings_of(strip, Block(0, 0, strip.rows, strip.cols))
    Image.fromarray(pixels).save(arguments.out, quality=88)
    print(f"from {ends[0].x},{ends[0].y} to {ends[1].x},{ends[1].y}")
    print("| step | stored, to the first | to the last | drawn, to the first | to the last |")
    print("|---|---|---|---|---|")
    first, last = (stored[:, cut].reshape(side * side, -1) for cut in (np.s_[:side], np.s_[-side:]))
    for step, recorded in enumerate(report.cosines):
        block = pixels[:, step * side * TILE : (step + 1) * side * TILE]
        tiles = block.reshape(side, TILE, side, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
        own = pipeline.encode_tiles(tiles)
        found = [cosines(own, end).mean() for end in (first, last)]
        print(
            f"| {step} | {recorded[0]:.3f} | {recorded[1]:.3f} | {found[0]:.3f} | {found[1]:.3f} |"
        )


if __name__ == "__main__":
    main()
