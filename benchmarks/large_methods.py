"""Large images by joint sampling and by the pyramid: what they cost, at equal seeds.

    python benchmarks/large_methods.py ARCHIVE -o LARGE.jpg [--size 512x512] [--inner 10]

The same grid of embeddings, from the place with most tissue, is drawn by both. Printed are
evaluations of the denoiser a patch of 20x, seconds, and how far the whole averaged down is from the
view that joint sampling made of it. The image shows joint sampling on the left.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from zoomldm import LargeOptions, large, load_pipeline
from zoomldm.diffusion.joint import JointSettings


def main() -> None:
    """Draw twice and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--inner", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pipeline", default="demo")
    arguments = parser.parse_args()
    pipeline, images = load_pipeline(arguments.pipeline), []
    width, height = (int(n) for n in arguments.size.split("x"))
    print("| method | evaluations a patch | seconds a patch | off its view (1/255) |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for method in ("joint", "pyramid"):
            options = LargeOptions(
                (width, height),
                method,
                batch=arguments.batch,
                settings=JointSettings(inner=arguments.inner),
            )
            out = Path(folder) / f"{method}.png"
            report = large(arguments.archive, out, options, pipeline=pipeline)
            images.append(np.array(Image.open(out)))
            off = "" if report.agreement is None else f"{report.agreement:.2f}"
            print(
                f"| {method} | {report.evaluations_per_tile:g} | "
                f"{report.seconds / report.tiles:.2f} | {off} |",
                flush=True,
            )
    Image.fromarray(np.hstack(images)).save(arguments.out, quality=88)


if __name__ == "__main__":
    main()
