"""Large images by joint sampling and by the pyramid: what they cost and give, at equal seeds.

    python benchmarks/large_methods.py ARCHIVE -o LARGE.jpg [--slide SLIDE] [--size 512x512]

The same grid of embeddings, from the place with most tissue, is drawn by both. Printed are
evaluations of the denoiser and seconds of the processor a patch of 20x; how far the whole averaged
down is from its guide (for joint sampling the view that it drew beside, for the pyramid its own
image of 5x, both in 1/255); and differences across the lattices of tiles and of the pyramid's
windows over those inside (1: no seam). With --slide, the Fréchet distance of crops of 128 px (of a
public network's features, at equal n) from the real place, beside that of another real place. The
image shows joint sampling, the pyramid and, with --slide, the slide.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from zoomldm import LargeOptions, large, load_pipeline, open_archive
from zoomldm.archive.base import halve
from zoomldm.diffusion.joint import JointSettings
from zoomldm.evaluation.distances import frechet_interval, scaled
from zoomldm.evaluation.fidelity import seams
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.generation.windows import STRIDE
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.rendering.opening import open_renderer
from zoomldm.sampling.large_input import read_input
from zoomldm.sampling.temporary_archive import write_temporary_archive
from zoomldm.slides import open_slide

GUIDE = 2  # level of the pyramid's own coarse image
CROP = 128  # px


def off_guide(
    whole: np.ndarray, archive: Path, options: LargeOptions, pipeline: ZoomLDMPipeline
) -> float:
    """Mean difference (1/255) of a pyramid averaged down from what it was drawn from."""
    given = read_input(str(archive), options.size, pipeline)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.zldm"
        write_temporary_archive(path, "grid", pipeline, given.grid)
        with open_archive(path) as opened, open_renderer(opened, pipeline, options.rendering) as r:
            coarse = r.read(GUIDE, 0, 0, *(n >> GUIDE for n in options.size))
    return float(np.abs(halve(whole, GUIDE).astype(int) - coarse).mean())


def elsewhere(mask: np.ndarray, x: int, y: int, width: int, height: int) -> tuple[int, int]:
    """Corner (px) of the place of this size with most tissue (in its first square), elsewhere."""
    rows, cols, row, col = (n // TILE for n in (height, width, y, x))
    free = mask.copy()
    free[row : row + rows, col : col + cols] = False
    r, c = (np.arange(n - side + 1) for n, side in zip(mask.shape, (rows, cols), strict=True))
    inside = tiles_within(free, r[:, None], c, min(rows, cols))
    other = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(other[1]) * TILE, int(other[0]) * TILE


def described(image: np.ndarray, looks: PublicFeatures) -> np.ndarray:
    """Features of an image's crops."""
    rows, cols = image.shape[0] // CROP, image.shape[1] // CROP
    crops = image.reshape(rows, CROP, cols, CROP, 3).swapaxes(1, 2).reshape(-1, CROP, CROP, 3)
    return looks(crops)


def main() -> None:
    """Draw twice and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--slide", type=Path, help="that the archive is of")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--methods", nargs="+", default=["joint", "pyramid"])
    parser.add_argument("--inner", type=int, default=JointSettings().inner)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    pipeline, rows, images = load_pipeline(arguments.pipeline, arguments.device), [], {}
    width, height = (int(n) for n in arguments.size.split("x"))
    x = y = 0
    with tempfile.TemporaryDirectory() as folder:
        for method in arguments.methods:
            options = LargeOptions(
                (width, height),
                method,
                batch=arguments.batch,
                settings=JointSettings(inner=arguments.inner),
            )
            out, began = Path(folder) / f"{method}.png", time.process_time()
            report = large(arguments.archive, out, options, pipeline=pipeline)
            taken = (time.process_time() - began) / report.tiles
            x, y = report.source["x"], report.source["y"]
            images[method] = np.array(Image.open(out))
            off = report.agreement
            if off is None:
                off = off_guide(images[method], arguments.archive, options, pipeline)
            rows.append((method, f"{report.evaluations_per_tile:g} | {taken:.2f} | {off:.2f}"))
    if arguments.slide:
        with open_slide(arguments.slide) as slide, open_archive(arguments.archive) as archive:
            places = (x, y), elsewhere(archive.mask, x, y, width, height)
            for name, place in zip(("the slide", "another place of it"), places, strict=True):
                images[name] = slide.read(0, *place, width, height)
                rows.append((name, "| |"))
    Image.fromarray(np.hstack(list(images.values())[:3])).save(arguments.out, quality=88)
    looks = PublicFeatures(pipeline.device) if arguments.slide else None
    real = described(images["the slide"], looks) if looks else np.empty(0)
    print(f"{width} x {height} px from {x},{y} on, {len(real)} crops of {CROP} px")
    print(
        "| | evaluations a patch | seconds a patch | off its guide | across tiles | across windows "
        f"| Fréchet |\n|{'---|' * 7}"
    )
    for name, costs in rows:
        shown = [seams(images[name], n, (x, y)).mean for n in (TILE, STRIDE * 4)]
        apart = ""
        if looks and name != "the slide":
            pair = scaled(real, described(images[name], looks))
            found = frechet_interval(pair[0], pair[1])
            apart = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        print(f"| {name} | {costs} | {shown[0]:.3f} | {shown[1]:.3f} | {apart} |", flush=True)


if __name__ == "__main__":
    main()
