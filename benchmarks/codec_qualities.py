"""Qualities of AVIF that lose as much of tissue as other codecs do.

    python benchmarks/codec_qualities.py SLIDE... [--pipeline demo] [--chunks 8]

Chunks of 256 px at 5x, more than four fifths tissue, go through every codec at several qualities.
Printed are their bytes, their PSNR, the mean squared error of an octave denoiser's input (in units
of latents), and the quality of AVIF that has the same error, each averaged over the slides: the
numbers of `zoomldm.archive.image_codecs`. Choose slides of training cases.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from zoomldm import load_pipeline
from zoomldm.archive.image_codecs import decode_image, encode_image
from zoomldm.geometry.levels import TILE
from zoomldm.networks.lowpass import LowPassAutoencoder, coarse_planes
from zoomldm.pixels import to_signed
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue

AVIF = (8, 12, 16, 20, 24, 28, 32, 37, 42, 48, 55, 65, 75, 85, 93)
OTHERS = {
    "jpegxl": (10, 20, 30, 40, 50, 60, 70, 80, 90),
    "webp": (1, 5, 10, 20, 30, 40, 50, 60, 75, 80, 90),
    "jpeg": (5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
}
SIDE = 256  # of a chunk


def chunks_of(path: Path, count: int) -> np.ndarray:
    """Chunks of tissue (n, 256, 256, 3) at 5x."""
    each = SIDE * 4 // TILE  # tiles
    with open_slide(path) as slide:
        mask = find_tissue(slide).mask
        rows, cols = (n // each for n in mask.shape)
        full = mask[: rows * each, : cols * each].reshape(rows, each, cols, each).mean((1, 3)) > 0.8
        places = np.random.default_rng(0).permutation(np.argwhere(full))[:count]
        return np.stack([slide.read(2, c * SIDE, r * SIDE, SIDE, SIDE) for r, c in places])


def given_latents(vae: LowPassAutoencoder, chunks: np.ndarray) -> torch.Tensor:
    """What the denoiser is given of 5x tiles of 64 px."""
    n, side = len(chunks), TILE // 4
    tiles = chunks.reshape(n, SIDE // side, side, SIDE // side, side, 3).swapaxes(2, 3)
    return vae.from_planes(coarse_planes(to_signed(tiles.reshape(-1, side, side, 3))))


def main() -> None:
    """Encode, decode, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--chunks", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    vae = load_pipeline(given.pipeline, "cpu").vae
    assert isinstance(vae, LowPassAutoencoder)
    slides = [chunks_of(path, given.chunks) for path in given.slides]
    exact = [given_latents(vae, chunks) for chunks in slides]

    def measure(codec: str, quality: int) -> np.ndarray:
        """Bytes a chunk, PSNR and error, (slides, 3)."""
        rows = []
        for chunks, latents in zip(slides, exact, strict=True):
            files = [encode_image(chunk, codec, quality) for chunk in chunks]
            shown = np.stack([decode_image(f, codec, chunks[0].shape, "chunk") for f in files])
            off = np.square(shown.astype(np.float64) - chunks).mean()
            error = float((given_latents(vae, shown) - latents).square().mean())
            rows.append((np.mean([len(f) for f in files]), 10 * np.log10(255**2 / off), error))
        return np.array(rows)

    print("| codec | quality | bytes a chunk | PSNR (dB) | error | AVIF of that error |")
    print("|---|---|---|---|---|---|")
    known = {}
    for quality in AVIF:
        known[quality] = found = measure("avif", quality)
        size, psnr, error = found.mean(0)
        print(
            f"| avif | {quality} | {size:.0f} | {psnr:.1f} | {error:.3f} | {quality} |", flush=True
        )
    errors = np.log([known[quality][:, 2] for quality in AVIF])[::-1]  # rising
    for codec, qualities in OTHERS.items():
        for quality in qualities:
            found = measure(codec, quality)
            size, psnr, error = found.mean(0)
            like = np.mean(
                [
                    np.interp(np.log(one), errors[:, i], AVIF[::-1])
                    for i, one in enumerate(found[:, 2])
                ]
            )
            print(
                f"| {codec} | {quality} | {size:.0f} | {psnr:.1f} | {error:.3f} | {like:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
