"""Remove the block lattice from a low-pass decoder, on a CPU, without an adversary.

    python benchmarks/demo_weights/even_decoder.py ARCHIVES/*.zldm --slides FOLDER -o OUT

Images are decoded in blocks of 16 px. A new decoder learns to reproduce the old one's output, pixel
by pixel, except for the steps across the lines of that lattice, which it learns from the slides.
It decodes what archives are rendered from: low images that the denoiser generated from base layers,
and those of archives without one, in whole squares that contain borders of windows; and real ones.
OUT gets `vae/`, `lows/` and a log; don't include archives of validation cases in ARCHIVES.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.archive import open_archive
from zoomldm.geometry.lattice import densest_region
from zoomldm.geometry.levels import TILE
from zoomldm.networks.lowpass import BLOCK, LowPassAutoencoder, coarse_planes, planes_image
from zoomldm.pipeline import load_pipeline
from zoomldm.pixels import to_signed
from zoomldm.rendering import RenderOptions
from zoomldm.rendering.opening import open_renderer
from zoomldm.rendering.pyramid import Pyramid
from zoomldm.slides import open_slide

SQUARE = 1024  # side in px at 20x of a rendered square
CROP, BORDER = 208, 16  # px of crops, and of their borders without a loss
LEVELS = 5  # of real images
PUSH = 40.0  # weight of the lattice relative to mean absolute differences
FLAT = 0.02  # added to a crop's mean step, so that crops of glass have little weight
EXACT = 0.375  # fraction of real low images


@dataclass(frozen=True)
class Square:
    """A rendered square and the real one.

    Attributes:
        low: (3, 256, 256) signed, the decoder's input.
        real: (1024, 1024, 3) uint8.
        coarse: (LEVELS - 1, 512, 512, 3) uint8, real tissue nearby at the levels above.
    """

    low: Tensor
    real: np.ndarray
    coarse: np.ndarray


def draw(paths: list[Path], slides: Path, folder: Path, pipeline: str) -> list[Square]:
    """Render squares of archives, two of each, stored in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    networks, found = load_pipeline(pipeline, "cpu"), []
    for path in paths:
        for half in (False, True):
            stored = folder / f"{path.parent.name}-{path.stem}-{int(half)}.npz"
            if not stored.is_file():
                with (
                    open_archive(path) as archive,
                    open_slide(slides / archive.manifest.slide.name) as slide,
                    open_renderer(archive, networks, RenderOptions()) as renderer,
                ):
                    assert isinstance(renderer, Pyramid)
                    width, height = archive.size
                    inside = archive.mask[: height // TILE, : width // TILE]
                    fraction = 0.5 if half else 1.0
                    x, y, _, _ = densest_region(inside, archive.size, SQUARE, fraction)
                    side = SQUARE // 4
                    field = renderer.latents.field(0, y // 4, x // 4, side, side)
                    coarse = []
                    for level in range(1, LEVELS):
                        at = [
                            max(0, min(v >> level, (n >> level) - SQUARE // 2))
                            for v, n in zip((x, y), slide.size, strict=True)
                        ]
                        coarse.append(slide.read(level, *at, SQUARE // 2, SQUARE // 2))
                    real = slide.read(0, x, y, SQUARE, SQUARE)
                    np.savez(
                        stored,
                        low=planes_image(field)[0].half().numpy(),
                        real=real,
                        coarse=np.stack(coarse),
                    )
                print(stored.name, flush=True)
            with np.load(stored) as read:
                low = torch.from_numpy(read["low"]).float()
                found.append(Square(low, read["real"], read["coarse"]))
    return found


def crops(squares: list[Square], size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield low images (B, 3, 52, 52), signed, and their levels (B,).

    The first fraction EXACT of each batch have real low images.
    """
    rng = np.random.default_rng(seed)
    while True:
        lows, levels = [], []
        for number in range(size):
            square = squares[int(rng.integers(len(squares)))]
            exact = number < round(EXACT * size)
            level = int(rng.integers(LEVELS)) if exact else 0
            whole = square.coarse[level - 1] if level else square.real
            y, x = (BLOCK * int(v) for v in rng.integers(0, (len(whole) - CROP) // BLOCK + 1, 2))
            if exact:
                low = F.avg_pool2d(to_signed(whole[None, y : y + CROP, x : x + CROP]), 4)[0]
            else:
                low = square.low[:, y // 4 : (y + CROP) // 4, x // 4 : (x + CROP) // 4]
            low = low.flip(2) if rng.integers(2) else low
            lows.append(torch.rot90(low, int(rng.integers(4)), (1, 2)))
            levels.append(level)
        yield torch.stack(lows), torch.tensor(levels)


def line_steps(images: Tensor, flat: float = FLAT) -> Tensor:
    """Steps across the lattice's lines relative to those across all lines: 1 if none is visible.

    Args:
        images: (B, 3, H, W) signed.
        flat: added to the mean step.

    Returns:
        (B, 16): mean absolute difference of the columns, and rows, that meet in line 1, 2, ... 16
        of each block, relative to the mean of all.
    """
    found = []
    for axis in (-1, -2):
        steps = images.diff(dim=axis).abs().mean((1, -3 - axis))
        found.append(steps[:, : steps.shape[1] // BLOCK * BLOCK].unflatten(1, (-1, BLOCK)).mean(1))
    steps = torch.stack(found).mean(0)
    mean = steps.mean(1, keepdim=True)
    return 1 + (steps - mean) / (mean + flat)


def kinds(levels: Tensor, exact: int) -> Tensor:
    """Levels (B,) of crops, LEVELS for those after the first `exact`."""
    return torch.where(torch.arange(len(levels)) < exact, levels, LEVELS)


@torch.no_grad()
def decoded(
    vae: LowPassAutoencoder, squares: list[Square], kind: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a decoder makes of the first 512 px of squares, and the slide there.

    Args:
        vae: the decoder.
        squares: some.
        kind: level of real low images, or LEVELS for generated ones.

    Yields:
        Both (1, 3, 512, 512) signed.
    """
    for number, square in enumerate(squares):
        whole = square.coarse[kind - 1] if 0 < kind < LEVELS else square.real
        real = to_signed(whole[None, :512, :512])
        low = square.low[None, :, :128, :128] if kind == LEVELS else F.avg_pool2d(real, 4)
        random = torch.Generator().manual_seed(number)
        noise = torch.randn(1, int(vae.config["noise_channels"]), 64, 64, generator=random)
        level = torch.tensor([kind % LEVELS])
        yield vae.decode(vae.from_planes(coarse_planes(low)), noise, level), real


def profile(vae: LowPassAutoencoder, squares: list[Square], kind: int) -> Tensor:
    """How far a decoder's `line_steps` (16,) are from the slides', on average; see `decoded`."""
    some = squares if kind in (0, LEVELS) else squares[::2]
    off = [line_steps(image) - line_steps(real) for image, real in decoded(vae, some, kind)]
    return torch.cat(off).mean(0)


def summary(vae: LowPassAutoencoder, squares: list[Square]) -> str:
    """Steps across the lattice's lines, as text: of rendered squares, and of real low images."""
    rows = []
    for name, kind in (("made", LEVELS), ("real", 0)):
        steps = torch.cat([line_steps(image, 1e-4) for image, _ in decoded(vae, squares, kind)])
        values = " ".join(f"{float(v):.3f}" for v in steps.mean(0).roll(1))
        rows.append(f"    {name} {values}")
    return "\n".join(rows)


def main() -> None:
    """Render, train, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--start", type=Path, help="folder of a vae that goes on; the pipeline's")
    parser.add_argument("--push", type=float, default=PUSH)
    parser.add_argument("--minutes", type=float, default=40, help="of training")
    parser.add_argument("--rate", type=float, default=3e-5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smooth", type=int, default=2, help="see LowPassAutoencoder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    old = load_pipeline(args.pipeline, "cpu").vae
    assert isinstance(old, LowPassAutoencoder)
    if old.texture is not None:
        raise SystemExit("this decoder restores and would forget how; see restoring.py")
    squares = draw(sorted(args.archives), args.slides, args.out / "lows", args.pipeline)
    old.eval().requires_grad_(False)
    settings = {k: v for k, v in old.config.items() if not k.startswith("_")}
    new = LowPassAutoencoder(**settings | {"smooth": args.smooth})
    begun = LowPassAutoencoder.from_pretrained(args.start) if args.start else old
    new.load_state_dict(begun.state_dict())
    for network in (old, new):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(new.parameters(), args.rate, betas=(0.9, 0.99))
    average = {k: v.clone() for k, v in new.state_dict().items()}
    profiles = torch.stack([profile(old, squares, kind) for kind in range(LEVELS + 1)])
    shown = squares[:: max(1, len(squares) // 8)]
    print(f"{len(squares)} squares; old:\n{summary(old, shown)}", flush=True)
    inner = slice(BORDER, -BORDER)
    began = said = time.monotonic()
    sums, steps = torch.zeros(4), 0
    exact = round(EXACT * args.batch)
    step = 0
    for low, levels in crops(squares, args.batch, 0):
        done = (time.monotonic() - began) / (60 * args.minutes)
        if done >= 1:
            break
        fall = 0.5 * (1 + np.cos(np.pi * done))
        optimiser.param_groups[0]["lr"] = args.rate * min(1, (step + 1) / 20) * (0.02 + 0.98 * fall)
        latents = old.from_planes(coarse_planes(low))
        noise = torch.randn(len(low), int(old.config["noise_channels"]), *latents.shape[2:])
        with torch.no_grad():
            wanted = old.decode(latents, noise, levels)[..., inner, inner]
        image = new.decode(latents, noise, levels)[..., inner, inner]
        apart = (image - wanted).abs().mean()
        off = line_steps(image) - line_steps(wanted) + profiles[kinds(levels, exact)]
        lattice = torch.stack([off[:exact].mean(0), off[exact:].mean(0)]).square().mean(1)
        loss = apart + args.push * lattice.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(new.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            keep = min(0.995, step / (step + 10))
            for name, value in new.state_dict().items():
                average[name].lerp_(value, 1 - keep)
            ratio = image.diff(dim=-1).abs().mean() / wanted.diff(dim=-1).abs().mean()
            sums += torch.stack([apart, *lattice, ratio])
        steps += 1
        if time.monotonic() - said > 60:
            a, b, c, d = (sums / steps).tolist()
            print(
                f"{time.monotonic() - began:5.0f} s  step {step}  apart {a:.4f}  "
                f"lattice {b**0.5:.4f} {c**0.5:.4f}  steps' size {d:.3f}",
                flush=True,
            )
            sums, steps, said = torch.zeros(4), 0, time.monotonic()
            save(average, settings | {"smooth": args.smooth}, args.out / "vae")
    final = save(average, settings | {"smooth": args.smooth}, args.out / "vae")
    print(f"new, {step} steps:\n{summary(final, shown)}", flush=True)


def save(average: dict[str, Tensor], settings: dict, folder: Path) -> LowPassAutoencoder:
    """Save the averaged weights, contiguous, in a folder."""
    copy = LowPassAutoencoder(**settings)
    copy.load_state_dict({k: v.contiguous() for k, v in average.items()})
    copy.save_pretrained(folder)
    return copy.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
