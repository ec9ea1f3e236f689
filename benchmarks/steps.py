"""What evaluations of the denoiser buy at 20x, sampler by sampler, from an archive's base layer.

Usage: python benchmarks/steps.py SLIDE ARCHIVE [--pipeline demo] [--tiles 96] [--full]

Patches at random tissue tiles are made from the archive's own 5x pixels and embeddings and decoded.
Samplers: DDIM and DPM-Solver++ 2M (Lu et al. 2022; `decompress` takes three evaluations of it at
even log-SNR) at even log-SNR and at even timesteps, DDIM with eta 1 (ancestral). Prints Fréchet
distance and retrieval by public features, the latents' fine detail over the real one's and its
correlation with it, their mean squared error in units of latents, and PSNR. Latents are the last
prediction's, and the first one's as the decoder restores it, which is what archives show; without
such a decoder they show what `recombining.py` makes of both. Choose steps on slides of training
cases, not on others.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomldm.archive import open_archive
from zoomldm.diffusion.multistep import Multistep, spread_times
from zoomldm.evaluation.distances import frechet, scaled
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.generation.octaves import LAST, NEAREST, codec_loss
from zoomldm.geometry.levels import TILE
from zoomldm.networks.lowpass import coarse_planes
from zoomldm.networks.octave_denoiser import BASE
from zoomldm.pipeline import load_pipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.slides import open_slide

BATCH = 16


class Patches:
    """Tiles of an archive with what is known of them."""

    def __init__(self, slide: Path, archive: Path, pipeline, count: int) -> None:
        self.pipeline, self.unet = pipeline, pipeline.unet
        with open_archive(archive) as opened, open_slide(slide) as source:
            base, side = opened.base, TILE // 4
            if base is None or base.level != 2:
                raise SystemExit(f"{archive}: needs a base layer at 5x")
            tiles = np.argwhere(opened.mask)
            chosen = np.random.default_rng(0).choice(len(tiles), min(count, len(tiles)), False)
            places = tiles[chosen]
            self.real = np.stack(
                [source.read(0, c * TILE, r * TILE, TILE, TILE) for r, c in places]
            )
            stored = np.stack([base.read(c * side, r * side, side, side) for r, c in places])
            grids = np.stack([opened.embeddings(r, r + 1, c, c + 1) for r, c in places])
            self.loss = codec_loss(base.codec, base.quality)
        with torch.no_grad():
            device = pipeline.device
            self.context = pipeline.context(torch.from_numpy(grids), 0)
            self.hint = pipeline.vae.from_planes(coarse_planes(to_signed(stored).to(device)))
            self.true = pipeline.vae.encode(to_signed(self.real).to(device))
        generator = torch.Generator().manual_seed(0)  # of the CPU, so that devices see one noise
        self.noise = torch.randn(self.hint.shape, generator=generator).to(device)
        channels = int(pipeline.vae.config["noise_channels"])
        shape = len(places), channels, *self.hint.shape[2:]
        self.detail = torch.randn(shape, generator=generator).to(device)

    @torch.no_grad()
    def sample(self, times: Sequence[int], solver: str, eta: float = 0.0) -> tuple[Tensor, Tensor]:
        """Latents by a solver, `ddim` or `2m`, over timesteps: first and last prediction."""
        generator = torch.Generator().manual_seed(5)
        parts = [
            self._batch(slice(i, i + BATCH), times, solver, eta, generator)
            for i in range(0, len(self.real), BATCH)
        ]
        return torch.cat([first for first, _ in parts]), torch.cat([last for _, last in parts])

    def _batch(
        self, part: slice, times: Sequence[int], solver: str, eta: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        context, hint, x = self.context[part], self.hint[part], self.noise[part]
        n, bars, device = len(x), self.unet.alphas, x.device
        level = torch.zeros(n, dtype=torch.long, device=device)
        kind = torch.full((n,), BASE, device=device)
        loss = torch.full((n,), self.loss, device=device)
        mean, variance = head = self.unet.head(context, level, hint, kind)
        alpha, sigma = bars[times[0]].sqrt(), (1 - bars[times[0]]).sqrt()
        x = alpha * mean + (alpha**2 * variance + sigma**2).sqrt() * x
        predictions, steps = [], Multistep(2 if solver == "2m" else 1)
        for now, after in zip(times, [*times[1:], None], strict=True):
            alpha, sigma = bars[now].sqrt(), (1 - bars[now]).sqrt()
            v = self.unet(
                x, torch.full((n,), now, device=device), context, level, hint, kind, loss, head
            )
            clean, eps = alpha * x - sigma * v, sigma * x + alpha * v
            predictions.append(clean)
            if after is None:
                break
            alpha2, sigma2 = bars[after].sqrt(), (1 - bars[after]).sqrt()
            if eta == 0:
                x = steps.step(x, clean, bars[now], bars[after])
            else:
                sigma_up = eta * (sigma2 / sigma) * (1 - (alpha / alpha2) ** 2).clamp(min=0).sqrt()
                x = alpha2 * clean + (sigma2**2 - sigma_up**2).clamp(min=0).sqrt() * eps
                x = x + sigma_up * torch.randn(x.shape, generator=generator).to(device)
        return predictions[0], predictions[-1]


class Scores:
    """Figures of latents of `Patches`, as rows of a table."""

    HEAD = (
        "| latents | evaluations | Fréchet | retrieval (%) | detail | its correlation | error "
        "| PSNR (dB) |\n|---|---|---|---|---|---|---|---|"
    )

    def __init__(self, patches: Patches) -> None:
        self.patches, self.pipeline = patches, patches.pipeline
        self.judge = PublicFeatures(self.pipeline.device)
        self.real = self.judge(patches.real)
        self.wanted = fine(self.pipeline.vae.to_planes(patches.true).luma)

    @torch.no_grad()
    def show(self, name: str, count: int, latents: Tensor, expected: bool = False) -> None:
        """Print the row of latents that took so many evaluations.

        Expected ones are restored if the decoder has learned to; their detail, its correlation and
        error are those of the restored latents.
        """
        patches, vae = self.patches, self.pipeline.vae
        images, shown = [], []
        for i in range(0, len(latents), 8):
            part, noise = latents[i : i + 8], patches.detail[i : i + 8]
            flags = torch.full((len(part),), float(expected), device=part.device)
            details, texture = vae.details(part, noise, None, flags)
            shown.append(part + texture)
            images.append(vae.assembled(shown[-1], details))
        pixels, latents = to_pixels(torch.cat(images)), torch.cat(shown)
        a, b = scaled(self.real, self.judge(pixels))
        nearest = ((b[:, None] - a[None]) ** 2).sum(-1).argmin(1)
        detail = fine(self.pipeline.vae.to_planes(latents).luma)
        own = 100 * (nearest == np.arange(len(a))).mean()
        off = np.square(pixels.astype(np.float32) - patches.real).mean((1, 2, 3))
        print(
            f"| {name} | {count} | {frechet(a, b):.0f} | "
            f"{own:.0f} | {detail.std() / self.wanted.std():.2f} | "
            f"{np.corrcoef(detail, self.wanted)[0, 1]:.2f} | "
            f"{float((latents - patches.true).square().mean()):.3f} | "
            f"{np.mean(10 * np.log10(255**2 / off)):.2f} |",
            flush=True,
        )


def even_times(steps: int) -> tuple[int, ...]:
    """Timesteps from 999 down, apart by as much."""
    return tuple(round(999 * (steps - i) / steps) for i in range(steps))


def fine(luma: Tensor) -> np.ndarray:
    """Detail finer than 3 px, away from the edges."""
    return (luma - F.avg_pool2d(luma, 3, 1, 1))[..., 4:-4, 4:-4].cpu().numpy().ravel()


def arguments_of(text: str | None, full: str) -> argparse.ArgumentParser:
    """Arguments of a benchmark on `Patches`, described by the first line of its text."""
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiles", type=int, default=96)
    parser.add_argument("--full", action="store_true", help=full)
    return parser


def main() -> None:
    """Measure and print."""
    parser = arguments_of(__doc__, "50 evaluations too")
    parser.add_argument("--last", type=int, default=NEAREST, help="timestep, of even log-SNR")
    parser.add_argument("--only", nargs="*", help="rows whose names end so")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(given.pipeline, given.device)
    patches = Patches(given.slide, given.archive, pipeline, given.tiles)
    scores, alphas = Scores(patches), pipeline.unet.alphas
    runs: list[tuple[str, Sequence[int], str, float]] = [
        (f"DDIM, even log-SNR, {n}", spread_times(alphas, n, LAST, given.last), "ddim", 0.0)
        for n in (1, 2, 3, 4, 6, 8, 12, 24)
    ]
    runs += [
        (f"DDIM, even, {n}", even_times(n), "ddim", 0.0)
        for n in (2, 4, 6, *([50] if given.full else []))
    ]
    runs += [
        ("DPM-Solver++ 2M, even log-SNR, 3", spread_times(alphas, 3, LAST, given.last), "2m", 0.0),
        ("DPM-Solver++ 2M, even log-SNR, 4", spread_times(alphas, 4, LAST, given.last), "2m", 0.0),
        ("DPM-Solver++ 2M, even log-SNR, 6", spread_times(alphas, 6, LAST, given.last), "2m", 0.0),
        ("DPM-Solver++ 2M, even, 6", even_times(6), "2m", 0.0),
        ("DDIM, eta 1, even, 24", even_times(24), "ddim", 1.0),
    ]
    print(f"{len(patches.real)} tiles of {given.slide.stem}, quality as stored\n")
    print(Scores.HEAD)
    scores.show("the slide's own", 0, patches.true)
    scores.show("the base layer's", 0, patches.hint)
    if pipeline.vae.restores:
        scores.show("restored", 1, patches.sample((LAST,), "2m")[0], expected=True)
    for name, times, solver, eta in runs:
        if given.only and not name.endswith(tuple(given.only)):
            continue
        scores.show(name, len(times), patches.sample(times, solver, eta)[1])


if __name__ == "__main__":
    main()
