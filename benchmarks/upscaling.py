"""Super-resolution against bicubic enlargement, on real crops.

    python benchmarks/upscaling.py SLIDE... -o UPSCALED.jpg [--factor 4] [--crops 4] [--side 512]

Crops at 20x, those with most tissue that do not overlap, are averaged down by the factor and made
large again. Printed are PSNR, SSIM, the perceptual distance of a public network, sharpness over
that of the real crop, and the F1 of nuclei at their places. The image shows the first crop of
each slide: the input, bicubic, made, real.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from zoomldm import UpscaleOptions, load_pipeline, upscale
from zoomldm.archive.base import halve
from zoomldm.evaluation.fidelity import psnr, sharpness, ssim
from zoomldm.evaluation.nuclei import compare_nuclei, find_nuclei
from zoomldm.evaluation.public_features import PublicFeatures, perceptual_distance
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue


def crops(path: Path, count: int, side: int) -> list[np.ndarray]:
    """Crops (side, side, 3) of a slide at 20x."""
    slide = open_slide(path)
    tiles, found = side // TILE, []
    mask = find_tissue(slide, "otsu").mask.copy()
    r, c = (np.arange(n - tiles + 1) for n in mask.shape)
    for _ in range(count):
        inside = tiles_within(mask, r[:, None], c, tiles)
        row, col = np.unravel_index(int(inside.argmax()), inside.shape)
        mask[row : row + tiles, col : col + tiles] = False
        found.append(slide.read(0, int(col) * TILE, int(row) * TILE, side, side))
    return found


def main() -> None:
    """Enlarge and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--pipeline", default="demo")
    arguments = parser.parse_args()
    factor, side, pipeline = arguments.factor, arguments.side, load_pipeline(arguments.pipeline)
    real, rows = [], []
    made: dict[str, list[np.ndarray]] = {"bicubic": [], "pyramid": []}
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.slides:
            for number, crop in enumerate(crops(path, arguments.crops, side)):
                small = Image.fromarray(halve(crop, factor.bit_length() - 1))
                small.save(Path(folder) / "in.png")
                options = UpscaleOptions(BASE_MPP * factor, factor)
                report = upscale(
                    Path(folder) / "in.png", Path(folder) / "o.png", options, pipeline=pipeline
                )
                seconds += report.seconds
                large = (side, side)
                real.append(crop)
                made["bicubic"].append(np.array(small.resize(large, Image.Resampling.BICUBIC)))
                made["pyramid"].append(np.array(Image.open(report.output)))
                if not number:
                    blocks = np.array(small.resize(large, Image.Resampling.NEAREST))
                    rows.append(np.hstack([blocks, made["bicubic"][-1], made["pyramid"][-1], crop]))
    Image.fromarray(np.vstack(rows)).save(arguments.out, quality=88)
    looks, truth = PublicFeatures(), np.stack(real)
    seen, nuclei = looks.look(truth), [find_nuclei(p) for p in real]
    print(f"{len(real)} crops of {side} px, {factor} x, {seconds / len(real):.1f} s each")
    print("| | PSNR (dB) | SSIM | perceptual distance | sharpness / real | F1 of nuclei |")
    print("|---|---|---|---|---|---|")
    for name, images in made.items():
        stack = np.stack(images)
        f1 = compare_nuclei(nuclei, [find_nuclei(p) for p in images])["f1"]
        print(
            f"| {name} | {psnr(truth, stack).mean():.2f} | {ssim(truth, stack).mean():.3f} | "
            f"{perceptual_distance(seen, looks.look(stack)).mean():.3f} | "
            f"{sharpness(stack) / sharpness(truth):.2f} | {f1:.3f} |"
        )


if __name__ == "__main__":
    main()
