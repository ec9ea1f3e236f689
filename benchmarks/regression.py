"""A plain regression network for super-resolution, what `upscaling.py` compares the pyramid with.

    python benchmarks/regression.py SLIDE... -o REGRESSION.safetensors [--minutes 15] [--wall 3]

A U-Net on the small image that adds to its bicubic enlargement, of about as many weights as the
demo's denoiser and decoder together (7.2 million), trained by L1 alone on crops of tissue at 20x
averaged down by 4, in all eight orientations. The rate falls by a cosine over the minutes given,
which are of processor time, so that other work on the machine doesn't count; or over --wall, where
that is over first.
Name slides that were trained on only: `upscaling.py` measures on others.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.archive.base import halve
from zoomldm.data.slide_patches import patch_starts
from zoomldm.geometry.levels import TILE
from zoomldm.geometry.orientation import TURNS, turn_array
from zoomldm.pipeline.loading import pick_device
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.slides import open_slide
from zoomldm.slides.tissue import find_tissue

FACTOR = 4


class _Block(nn.Module):
    """Residual block of two convolutions, as EDSR's: without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.silu(self.one(x)))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


class Regression(nn.Module):
    """Images (B, 3, h, w) in [-1, 1], sides multiples of 4, to (B, 3, 4 h, 4 w)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first = nn.Conv2d(3, 64, 3, padding=1), _blocks(64, 3)
        self.down1, self.second = nn.Conv2d(64, 128, 3, 2, padding=1), _blocks(128, 3)
        self.down2, self.middle = nn.Conv2d(128, 256, 3, 2, padding=1), _blocks(256, 3)
        self.up1, self.third = nn.Conv2d(256, 4 * 128, 1), _blocks(128, 2)
        self.up2, self.fourth = nn.Conv2d(128, 4 * 64, 1), _blocks(64, 3)
        self.up3, self.fine = nn.Conv2d(64, 4 * 32, 1), _blocks(32, 3)
        self.leave = nn.Conv2d(32, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, small: Tensor) -> Tensor:
        """Enlarged images, not clamped."""
        a = self.first(self.enter(small))
        b = self.second(self.down1(a))
        c = self.middle(self.down2(b))
        b = self.third(b + F.pixel_shuffle(self.up1(c), 2))
        a = self.fourth(a + F.pixel_shuffle(self.up2(b), 2))
        detail = F.pixel_shuffle(self.leave(self.fine(F.pixel_shuffle(self.up3(a), 2))), 2)
        low = F.interpolate(small, scale_factor=FACTOR, mode="bicubic", align_corners=False)
        return low + detail

    @torch.no_grad()
    def enlarged(self, small: np.ndarray) -> np.ndarray:
        """An image (h, w, 3) uint8 four times as large."""
        return to_pixels(self(to_signed(small[None]).to(self.enter.weight.device)))[0]


def load_regression(path: Path) -> tuple[Regression, str]:
    """A trained network, and how it was trained."""
    network = Regression()
    network.load_state_dict(load_file(path))
    with safe_open(path, "pt") as file:
        return network.eval(), file.metadata()["trained"]


def tissue(paths: list[Path], most: int) -> np.ndarray:
    """Patches (n, 256, 256, 3) at 20x, up to `most` a slide, outside what training withholds."""
    rng, found = np.random.default_rng(0), []
    for path in paths:
        with open_slide(path) as slide:
            places = patch_starts(find_tissue(slide).mask, 0)
            for y, x in rng.permutation(places)[:most].tolist():
                found.append(slide.read(0, x, y, TILE, TILE))
    return np.stack(found)


def batch(patches: np.ndarray, rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Crops (count, side, side, 3)."""
    out = []
    for i in rng.integers(len(patches), size=count).tolist():
        y, x = rng.integers(0, TILE - side + 1, 2).tolist()
        crop = patches[i, y : y + side, x : x + side]
        out.append(turn_array(crop, int(rng.integers(TURNS))))
    return np.stack(out)


def main() -> None:
    """Train until the minutes are over, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--wall", type=float, default=math.inf, help="minutes by the clock")
    parser.add_argument("--patches", type=int, default=200, help="of a slide, at most")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    patches = tissue(arguments.slides, arguments.patches)
    torch.manual_seed(0)
    device = pick_device(arguments.device)
    network, rng = Regression().to(device), np.random.default_rng(1)
    weights = sum(p.numel() for p in network.parameters())
    print(f"{weights:,} weights, {len(patches):,} patches", flush=True)
    optimiser = torch.optim.Adam(network.parameters(), arguments.rate)
    began, processor, steps, recent = time.monotonic(), time.process_time(), 0, []
    while True:
        taken = (time.process_time() - processor) / 60
        progress = max(taken / arguments.minutes, (time.monotonic() - began) / 60 / arguments.wall)
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            warm = min(1, (steps + 1) / 50)
            group["lr"] = arguments.rate * warm * (0.5 + 0.5 * math.cos(math.pi * progress))
        crops = batch(patches, rng, arguments.batch, arguments.side)
        small = np.stack([halve(crop, FACTOR.bit_length() - 1) for crop in crops])
        given, wanted = (to_signed(v).contiguous().to(device) for v in (small, crops))
        loss = (network(given) - wanted).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps, recent = steps + 1, [*recent[-99:], loss.detach()]
        if steps % 100 == 0:
            mean = float(torch.stack(recent).mean()) * 127.5
            print(f"step {steps}, {progress:.0%}: L1 {mean:.2f} / 255", flush=True)
    description = (
        f"{steps:,} steps of {arguments.batch} crops of {arguments.side} px, "
        f"{taken:.1f} minutes of processor time ({device}), "
        f"{weights / 1e6:.1f} million weights, {len(arguments.slides)} slides"
    )
    save_file(network.cpu().state_dict(), arguments.out, {"trained": description})
    print(description)


if __name__ == "__main__":
    main()
