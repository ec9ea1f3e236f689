"""Qualities of AVIF at 5x that lose as much of tissue as other codecs, or AVIF at other levels, do.

    python benchmarks/codec_qualities.py SLIDE... [--pipeline demo] [--chunks 8]
    python benchmarks/codec_qualities.py SLIDE... --levels 0,1,3,4

Chunks of 256 px at 5x, more than four fifths tissue, go through every codec at several qualities;
with `--levels` AVIF alone, at those levels, over the square of 16 chunks with most tissue.
Printed are the bytes of such a chunk, its PSNR, the mean squared error of an octave denoiser's
input (in units of latents; at 5x, or the level itself if coarser), and the quality of AVIF at 5x
that has the same error there, each averaged over the slides: the numbers of
`zoomldm.archive.image_codecs`. Choose slides of training cases.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from zoomldm import load_pipeline
from zoomldm.archive.base import halve
from zoomldm.archive.image_codecs import decode_image, encode_image
from zoomldm.geometry.lattice import densest_region
from zoomldm.geometry.levels import NAMES, TILE
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
AT_LEVELS = (20, 30, 42, 50, 60, 70, 80, 90)
SIDE = 256  # of a chunk
SQUARE = 4096  # px at 20x


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
    """What the denoiser is given of images (n, h, w, 3): tiles of 64 px."""
    (n, h, w, _), side = chunks.shape, TILE // 4
    tiles = chunks.reshape(n, h // side, side, w // side, side, 3).swapaxes(2, 3)
    return vae.from_planes(coarse_planes(to_signed(tiles.reshape(-1, side, side, 3))))


def square_of(path: Path) -> list[np.ndarray]:
    """The square of a slide with most tissue, at levels 0 to 4, averaged from 20x."""
    with open_slide(path) as slide:
        x, y, _, _ = densest_region(find_tissue(slide).mask, slide.size, SQUARE, 1.0)
        whole = slide.read(0, x, y, SQUARE, SQUARE)
    return [halve(whole, level) for level in range(5)]


def coded(image: np.ndarray, quality: int) -> tuple[np.ndarray, int]:
    """An image (h, w, 3) as AVIF shows it, chunk by chunk, and the bytes of all chunks."""
    out, size = np.empty_like(image), 0
    for y in range(0, len(image), SIDE):
        for x in range(0, image.shape[1], SIDE):
            chunk = image[y : y + SIDE, x : x + SIDE]
            file = encode_image(chunk, "avif", quality)
            out[y : y + SIDE, x : x + SIDE] = decode_image(file, "avif", chunk.shape, "chunk")
            size += len(file)
    return out, size


def compare_levels(vae: LowPassAutoencoder, squares: list[list[np.ndarray]], level: int) -> None:
    """Print the rows of AVIF at a level."""
    seen = max(level, 2)  # level of the pixels that the denoiser is given
    exact = [given_latents(vae, square[seen][None]) for square in squares]

    def measure(at: int, quality: int) -> np.ndarray:
        """Bytes a chunk, PSNR and error, (slides, 3)."""
        rows = []
        for square, latents in zip(squares, exact, strict=True):
            shown, size = coded(square[at], quality)
            off = np.square(shown.astype(np.float64) - square[at]).mean()
            given = given_latents(vae, halve(shown, seen - at)[None])
            error = float((given - latents).square().mean())
            chunks = square[at].size / (3 * SIDE**2)
            rows.append((size / chunks, 10 * np.log10(255**2 / off), error))
        return np.array(rows)

    errors = np.log([measure(2, quality)[:, 2] for quality in AVIF])[::-1]  # rising
    for quality in AT_LEVELS:
        found = measure(level, quality)
        print_row(f"avif at {NAMES[level]}", quality, found, errors)


def print_row(name: str, quality: int, found: np.ndarray, errors: np.ndarray) -> None:
    """Print a row of the table.

    Args:
        name: codec.
        quality: its quality.
        found: bytes a chunk, PSNR and error, (slides, 3).
        errors: logarithms of the errors of AVIF at 5x, rising, (len(AVIF), slides).
    """
    size, psnr, error = found.mean(0)
    like = np.mean(
        [np.interp(np.log(one), errors[:, i], AVIF[::-1]) for i, one in enumerate(found[:, 2])]
    )
    print(
        f"| {name} | {quality} | {size:.0f} | {psnr:.1f} | {error:.3f} | {like:.1f} |", flush=True
    )


def main() -> None:
    """Encode, decode, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--levels", help="AVIF at these levels, by number, in place of codecs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    vae = load_pipeline(given.pipeline, "cpu").vae
    assert isinstance(vae, LowPassAutoencoder)
    print("| codec | quality | bytes a chunk | PSNR (dB) | error | AVIF of that error |")
    print("|---|---|---|---|---|---|")
    if given.levels:
        squares = [square_of(path) for path in given.slides]
        for level in given.levels.split(","):
            compare_levels(vae, squares, int(level))
        return
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
            print_row(codec, quality, measure(codec, quality), errors)


if __name__ == "__main__":
    main()
