"""Super-resolution against bicubic enlargement and a plain regression network, on real crops.

    python benchmarks/upscaling.py SLIDE... -o UPSCALED.jpg [--crops 4] [--side 512]
        [--regression REGRESSION.safetensors] [--inversion] [--factor 4]

Crops at 20x, those with most tissue that do not overlap, are averaged down by the factor and made
large again: by bicubic enlargement, by `zoomldm upscale`, by what `regression.py` trained (4 x
only), over more than 4 x without the contexts that the pipeline's context network reads, and, where
asked for, by inversion, which takes minutes a crop. Printed are PSNR, SSIM, the
perceptual distance of a public network, sharpness over that of the real crop, the F1 of nuclei at
their places, and the Fréchet distance (of the judge's features) of all squares of 256 px from the
real ones. The image shows the first crop of each slide: the input, each method, real.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from regression import FACTOR, load_regression

from zoomldm import UpscaleOptions, load_pipeline, upscale
from zoomldm.archive.base import halve
from zoomldm.evaluation.distances import frechet_interval, scaled
from zoomldm.evaluation.fidelity import psnr, sharpness, ssim
from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.nuclei import compare_nuclei, find_nuclei
from zoomldm.evaluation.public_features import PublicFeatures, perceptual_distance
from zoomldm.geometry.lattice import tiles_within
from zoomldm.geometry.levels import BASE_MPP, TILE
from zoomldm.pipeline import ZoomLDMPipeline
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


Method = Callable[[np.ndarray], np.ndarray]


def bicubic(small: np.ndarray, factor: int) -> np.ndarray:
    """An image (h, w, 3) enlarged."""
    size = small.shape[1] * factor, small.shape[0] * factor
    return np.array(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def by_verb(
    small: np.ndarray,
    factor: int,
    pipeline: ZoomLDMPipeline,
    method: Literal["pyramid", "inversion"],
) -> np.ndarray:
    """An image (h, w, 3) as `zoomldm upscale` makes it large."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "in.png", Path(folder) / "out.png"
        Image.fromarray(small).save(paths[0])
        options = UpscaleOptions(BASE_MPP * factor, factor, method=method)
        return np.array(Image.open(upscale(*paths, options, pipeline=pipeline).output))


def squares(images: np.ndarray) -> np.ndarray:
    """Images (n, H, W, 3) in squares of a tile, (m, 256, 256, 3)."""
    n, rows, cols = len(images), images.shape[1] // TILE, images.shape[2] // TILE
    cut = images.reshape(n, rows, TILE, cols, TILE, 3).swapaxes(2, 3)
    return cut.reshape(-1, TILE, TILE, 3)


def main() -> None:
    """Enlarge and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--factor", type=int, default=FACTOR)
    parser.add_argument("--crops", type=int, default=4, help="of a slide")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--regression", type=Path, help="what regression.py wrote")
    parser.add_argument("--inversion", action="store_true", help="by inversion, too")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    factor, side, pipeline = (
        arguments.factor,
        arguments.side,
        load_pipeline(arguments.pipeline, arguments.device),
    )
    methods: dict[str, Method] = {"bicubic": lambda small: bicubic(small, factor)}
    if arguments.regression:
        if factor != FACTOR:
            parser.error(f"--regression is for --factor {FACTOR}")
        network, trained = load_regression(arguments.regression)
        methods["regression"] = network.to(pipeline.device).enlarged
        print(f"regression: {trained}")
    methods["pyramid"] = lambda small: by_verb(small, factor, pipeline, "pyramid")
    if pipeline.context_network is not None and factor > FACTOR:
        bare = load_pipeline(arguments.pipeline, arguments.device)
        bare.context_network = None
        methods["pyramid without contexts"] = lambda small: by_verb(small, factor, bare, "pyramid")
    if arguments.inversion:
        methods["inversion"] = lambda small: by_verb(small, factor, pipeline, "inversion")
    real = [crops(path, arguments.crops, side) for path in arguments.slides]
    truth, rows = np.concatenate(real), []
    small = [halve(crop, factor.bit_length() - 1) for crop in truth]
    upscaled, seconds = {}, {}
    for name, method in methods.items():
        began = time.monotonic()
        upscaled[name] = np.stack([method(image) for image in small])
        seconds[name] = (time.monotonic() - began) / len(truth)
    for i in range(0, len(truth), arguments.crops):
        blocks = small[i].repeat(factor, 0).repeat(factor, 1)
        rows.append(np.hstack([blocks, *(images[i] for images in upscaled.values()), truth[i]]))
    Image.fromarray(np.vstack(rows)).save(arguments.out, quality=88)
    looks, describe = PublicFeatures(pipeline.device), load_judge(None, pipeline.device)
    seen, nuclei = looks.look(truth), [find_nuclei(p) for p in truth]
    described = describe(squares(truth))
    print(f"{len(truth)} crops of {side} px, {factor} x, {len(described)} squares of {TILE} px")
    print(
        "| | PSNR (dB) | SSIM | perceptual distance | sharpness / real | F1 of nuclei | Fréchet | "
        f"seconds a crop |\n|{'---|' * 8}"
    )
    for name, images in upscaled.items():
        f1 = compare_nuclei(nuclei, [find_nuclei(p) for p in images])["f1"]
        pair = scaled(described, describe(squares(images)))
        apart = frechet_interval(pair[0], pair[1])
        print(
            f"| {name} | {psnr(truth, images).mean():.2f} | {ssim(truth, images).mean():.3f} | "
            f"{perceptual_distance(seen, looks.look(images)).mean():.3f} | "
            f"{sharpness(images) / sharpness(truth):.2f} | {f1:.3f} | "
            f"{apart.value:.1f} [{apart.low:.1f}, {apart.high:.1f}] | {seconds[name]:.1f} |"
        )


if __name__ == "__main__":
    main()
