"""Check of a decoder on withheld tissue: distances, retrieval, details, a sheet."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from decoder_data import chunks, make_lows, padded_pyramid
from numpy.typing import NDArray
from packed import TILE, PackedSlide
from torch import Tensor
from torch.nn import functional as F

from zoomldm.data.coded import as_base_layer
from zoomldm.evaluation.distances import frechet, kid, scaled
from zoomldm.evaluation.judge import nearest_is_source
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.networks.lowpass import LowPassAutoencoder, coarse_planes
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.training.adversaries import detail
from zoomldm.training.decoder_objective import phase_loss

AROUND = 64  # px around a tile that are decoded with it
QUALITY = 37
MOST = 32  # tiles per slide
LEAST = 8  # tiles below which a slide has no distance of its own


@dataclass
class _Shown:
    real: NDArray[np.uint8]  # (n, 256, 256, 3)
    exact: Tensor  # latents of the tile and its surroundings, (n, 6, 48, 48)
    coded: Tensor  # the same from the coded low image
    stored: Tensor  # coded low image of the tile, (n, 3, 64, 64) signed
    slide: NDArray[np.int64]


class Check:
    """Tiles of the withheld blocks with their surroundings, rendered by a decoder.

    Args:
        slides: packed slides.
        pipeline: encodes; its denoiser generates low images.
        most: tiles per slide.
    """

    def __init__(
        self, slides: list[PackedSlide], pipeline: ZoomLDMPipeline, most: int = MOST
    ) -> None:
        self.device = slides[0].mosaic.device
        self.public, self.most = PublicFeatures(self.device), most
        real, around, coded, owner = [], [], [], []
        wide = TILE + 2 * AROUND
        for number, slide in enumerate(slides):
            places = np.argwhere(slide.block & slide.mask & slide.stored)
            inside = (places > 0).all(1) & (places < np.array(slide.mask.shape) - 1).all(1)
            places = places[inside]
            places = places[np.linspace(0, len(places) - 1, min(most, len(places))).astype(int)]
            for row, column in places.tolist():
                y, x = row * TILE - AROUND, column * TILE - AROUND
                whole = slide.mosaic[y : y + wide, x : x + wide]
                around.append(whole)
                real.append(whole[AROUND:-AROUND, AROUND:-AROUND].cpu().numpy())
                low = F.avg_pool2d(whole.permute(2, 0, 1).float()[None], 4)[0].round()
                low = low.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
                coded.append(as_base_layer(low, QUALITY, speed=6))
                owner.append(number)
        pixels = to_signed(torch.stack(around))
        stored = to_signed(np.stack(coded)).to(self.device)
        vae, edge = pipeline.vae, AROUND // 4
        with torch.no_grad():
            exact, base = vae.encode(pixels), vae.from_planes(coarse_planes(stored))
        inner = stored[..., edge:-edge, edge:-edge]
        self.shown = _Shown(np.stack(real), exact, base, inner, np.array(owner))
        self.looks = self.public(self.shown.real)
        self.bicubic = {"mean": self._enlarged(exact, vae), "codec": self._enlarged(base, vae)}
        self.known = {k: self._distances(v) for k, v in self.bicubic.items()}
        self.generated = base
        rng = torch.Generator().manual_seed(4)
        self.rng = rng
        self.noise = torch.randn(len(real), 6, 32, 32, generator=rng).to(self.device)
        self.remake(pipeline)
        self.coarse = self._patches(slides)

    @torch.no_grad()
    def remake(self, pipeline: ZoomLDMPipeline) -> None:
        """Regenerate the tiles' latents with another denoiser; those around them stay coded."""
        edge = AROUND // 8
        self.generated = self.shown.coded.clone()
        for part in chunks(len(self.noise), 64):
            tiles = to_signed(self.shown.real[part]).to(self.device)
            low = make_lows(pipeline, tiles, self.shown.stored[part], QUALITY, self.noise[part])
            generated = pipeline.vae.from_planes(coarse_planes(low))
            self.generated[part, :, edge:-edge, edge:-edge] = generated

    @torch.no_grad()
    def _enlarged(self, latents: Tensor, vae: LowPassAutoencoder) -> NDArray[np.uint8]:
        nothing = torch.zeros(1, 3, TILE + 2 * AROUND, TILE + 2 * AROUND, device=self.device)
        inner = slice(AROUND, -AROUND)
        parts = [
            to_pixels(vae.assembled(latents[p], nothing)[..., inner, inner])
            for p in chunks(len(latents), 32)
        ]
        return np.concatenate(parts)

    @torch.no_grad()
    def decoded(self, vae: LowPassAutoencoder, latents: Tensor, level: int = 0) -> Tensor:
        """Signed images (n, 3, 256, 256) of latents with surroundings, under fixed noise."""
        channels = int(vae.config["noise_channels"])
        rng = torch.Generator().manual_seed(7)
        inner, out = slice(AROUND, -AROUND), []
        for part in chunks(len(latents), 32):
            z = latents[part]
            noise = torch.randn(len(z), channels, *z.shape[2:], generator=rng).to(self.device)
            levels = torch.full((len(z),), level, device=self.device)
            out.append(vae.decode(z, noise, levels)[..., inner, inner].clamp(-1, 1))
        return torch.cat(out)

    def _distances(self, pixels: NDArray[np.uint8]) -> dict[str, float]:
        """Means over slides, with features in units of the slide's real tiles."""
        found = self.public(pixels)
        rows = []
        for number in np.unique(self.shown.slide):
            of = self.shown.slide == number
            if of.sum() < min(LEAST, self.most):
                continue
            real, generated = scaled(self.looks[of], found[of])
            hit = nearest_is_source(found[of], self.looks[of], np.arange(of.sum()))
            rows.append((frechet(generated, real), kid(generated, real), hit.mean()))
        distance, kernel, hit = np.mean(rows, 0)
        return {"frechet": float(distance), "kernel": float(kernel), "hit": 100 * float(hit)}

    def measure(self, vae: LowPassAutoencoder) -> dict[str, dict[str, float]]:
        """Return figures of exact and of generated latents.

        Returns:
            By `exact` and `made`: `frechet`, `kernel` and `hit` (%) as means over slides, `ratio`
            of the first to the coded low image's, `detail` (absolute Laplacian relative to the
            real one), `psnr` (dB) and `phase`.
        """
        found = {}
        real = to_signed(self.shown.real)
        for name, latents in (("exact", self.shown.exact), ("made", self.generated)):
            images = self.decoded(vae, latents).cpu()
            row = self._distances(to_pixels(images))
            row["ratio"] = row["frechet"] / self.known["codec"]["frechet"]
            row["detail"] = float(_laplacian(images) / _laplacian(real))
            row["psnr"] = float(-10 * ((images - real).square().mean((1, 2, 3)) / 4).log10().mean())
            row["phase"] = 1e4 * float(phase_loss(detail(images) - detail(real)))
            found[name] = row
        return found

    def _patches(self, slides: list[PackedSlide]) -> NDArray[np.uint8]:
        """Four patches at 5x around withheld blocks, with surroundings."""
        found, wide = [], TILE + 2 * AROUND
        for slide in slides[:4]:
            whole = padded_pyramid(slide)[2]
            row, column = np.argwhere(slide.block).mean(0)
            y, x = (int(v * 64) for v in (row, column))
            y, x = min(y, whole.shape[0] - wide), min(x, whole.shape[1] - wide)
            found.append(whole[y : y + wide, x : x + wide].cpu().numpy())
        return np.stack(found)

    def sheet(self, vae: LowPassAutoencoder, before: LowPassAutoencoder, path: Path) -> None:
        """Columns: real, enlarged, before and now of exact latents, before and now of generated."""
        from PIL import Image

        chosen = np.linspace(0, len(self.shown.real) - 1, 12).astype(int)
        exact, generated = self.shown.exact[chosen], self.generated[chosen]
        columns = [self.shown.real[chosen], self.bicubic["mean"][chosen]]
        for latents in (exact, generated):
            columns += [to_pixels(self.decoded(v, latents)) for v in (before, vae)]
        _sheet(columns).save(path)
        inner = slice(AROUND, -AROUND)
        pixels = to_signed(self.coarse).to(self.device)
        with torch.no_grad():
            latents = vae.encode(pixels)
        columns = [self.coarse[:, inner, inner], self._enlarged(latents, vae)]
        columns += [to_pixels(self.decoded(v, latents, 2)) for v in (before, vae)]
        name = path.with_name(f"{path.stem}-5x{path.suffix}")
        Image.fromarray(np.asarray(_sheet(columns))).save(name)


def frozen(vae: LowPassAutoencoder) -> LowPassAutoencoder:
    """A frozen copy."""
    return copy.deepcopy(vae).eval().requires_grad_(False)


def _sheet(columns: list[NDArray[np.uint8]]):
    from PIL import Image

    return Image.fromarray(np.concatenate([np.concatenate(list(c)) for c in columns], 1))


def _laplacian(images: Tensor) -> Tensor:
    x = images.mean(1)
    inner = 4 * x[:, 1:-1, 1:-1] - x[:, :-2, 1:-1] - x[:, 2:, 1:-1]
    return (inner - x[:, 1:-1, :-2] - x[:, 1:-1, 2:]).abs().mean()
