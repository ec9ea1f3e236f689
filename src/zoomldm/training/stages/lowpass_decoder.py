"""Stage: the low-pass latents' decoder, trained on pixels, a public network's maps, adversaries."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.data.crops import Crops, CropSource, PatchCrops
from zoomldm.errors import ConfigError
from zoomldm.networks.lowpass import (
    CELL,
    LowPassAutoencoder,
    coarse_planes,
    planes_image,
    restoring,
)
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.training.assembly import start_frozen_network
from zoomldm.training.config import DecoderConfig
from zoomldm.training.decoder_objective import DecoderAdversary, DecoderObjective, Push
from zoomldm.training.generated_crops import GeneratedCrops
from zoomldm.training.perceptual import LiteFeatures, perceptual_features
from zoomldm.training.stage import Data, Kinds, Stage, Start

INNER = 128  # side in px of what is compared of a crop
BORDER = 8  # px on each side left out: they lack a neighbourhood, ...
WIDE_BORDER = 40  # ... which texture depends on from farther away than details
RISE = 500  # steps over which the weights of the adversaries' losses rise
NOISY = 0.3  # fraction of the crops whose latents carry noise
STRONGEST = 0.2  # largest standard deviation of that noise

FITTED = 64  # crops that the maps' scales are fitted to
MEASURE = 10  # steps between measurements of the losses' gradients
AGREE = {"noisy": 0.5, "made": 0.3}  # how far positions can agree if latents are not exact
LOSS_WEIGHTS = {"pixels": 0.5, "maps": 1.0, "statistics": 2.0, "details": 1.0, "features": 1.0}


def fit_bands(
    autoencoder: LowPassAutoencoder, crops: CropSource, seed: int, count: int = 256
) -> None:
    """Set the scaling of the latents' bands from crops, unless it is already set."""
    if not bool((autoencoder.scale == 1).all()):
        return
    some_crops = crops.draw(np.random.default_rng([seed, 1]), count, 256)
    bands = autoencoder.bands(coarse_planes(to_signed(some_crops.low))).transpose(0, 1).flatten(1)
    autoencoder.fit(bands.mean(1), bands.std(1).clamp(min=1e-3))


class LowPassDecoderStage(Stage):
    """Decoding of images from latents, by `DecoderObjective`; the discriminators have a warm-up.

    The latents are those of real images or, where the crops say so, a denoiser's output. A decoder
    that `restores` learns to add the texture that its first prediction lacks.

    Args:
        autoencoder: its decoder is trained; its bands are scaled already.
        crops: training crops; None for a stage without data.
        held_out: crops of held-out cases, or None.
        features: network whose maps are compared; None to compare pixels and details alone.
        adversary: part of each discriminator in the gradient; the other losses together have 3.5.
        warmup: number of steps for which the discriminators train alone first.
        discriminator: discriminator to continue with; None for an untrained one.
    """

    name = "lowpass-decoder"
    source = "slides"
    trains = ("vae",)
    Config = DecoderConfig

    @classmethod
    def fits(cls, kinds: Kinds) -> bool:
        """Whether the latents are a fixed map of the pixels."""
        return kinds["vae"] is LowPassAutoencoder

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Contexts stay valid, and so do the networks that sample them."""
        keep = ("embedding_diffusion", "context_network")
        pipeline = start_frozen_network(start, "vae", keep=keep)
        assert isinstance(start.config, DecoderConfig)
        if start.config.restores:
            pipeline.vae = restoring(pipeline.vae)
        if pipeline.vae.texture is not None and not start.config.made:
            raise ConfigError(
                "a decoder that restores needs latents that a denoiser made, or it forgets how; "
                "set made=0.75, say"
            )
        return pipeline

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on crops of patches, a fraction `made` of them with a denoiser's low image."""
        config, patches, held_out = start.config, data.patches, data.held_out_patches
        assert base is not None and patches is not None and isinstance(config, DecoderConfig)
        crops: CropSource = PatchCrops(patches)
        other: CropSource | None = PatchCrops(held_out) if held_out else None
        fit_bands(base.vae, crops, config.seed)
        if config.made:
            crops = GeneratedCrops(patches, base, crops, config.made)
            other = (
                GeneratedCrops(held_out, base, other, config.made) if held_out and other else None
            )
        stage = cls(base.vae, crops, other, perceptual_features(), config.adversary)
        rng = np.random.default_rng([config.seed, 2])
        some = PatchCrops(patches).draw(rng, FITTED, stage.side)
        stage.objective.fit(to_signed(some.images)[..., stage.inner, stage.inner], 8)
        return stage

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None and isinstance(start.config, DecoderConfig)
        features = perceptual_features()
        return cls(base.vae, None, None, features, start.config.adversary)

    def __init__(
        self,
        autoencoder: LowPassAutoencoder,
        crops: CropSource | None,
        held_out: CropSource | None = None,
        features: LiteFeatures | None = None,
        adversary: float = 1.0,
        warmup: int = 500,
        discriminator: DecoderAdversary | None = None,
    ) -> None:
        super().__init__()
        self.vae = autoencoder.requires_grad_(True)
        self.border = BORDER if autoencoder.texture is None else WIDE_BORDER
        self.side, self.inner = INNER + 2 * self.border, slice(self.border, -self.border)
        channels = features.channels if features is not None else ()
        self.discriminator = discriminator or DecoderAdversary(channels)
        weights = LOSS_WEIGHTS | {"details": adversary, "features": adversary}
        self.objective = DecoderObjective(self.discriminator, features, weights)
        if crops is not None:
            self.crops = crops
        self.held_out_crops = held_out
        self.warmup = warmup

    def networks(self) -> dict[str, nn.Module]:
        """Autoencoder and discriminator."""
        return {"autoencoder": self.vae, "discriminator": self.discriminator}

    def frozen(self) -> list[nn.Module]:
        """The network of the features, if there is one."""
        features = self.objective.features
        return [features] if isinstance(features, nn.Module) else []

    def compilable(self) -> list[nn.Module]:
        """The decoder's three trunks, since crops are of one size."""
        return [self.vae.coarse, self.vae.middle, self.vae.fine]

    def blocks(self) -> list[nn.Module]:
        """The decoder's blocks."""
        return [*self.vae.coarse, *self.vae.middle, *self.vae.fine]

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`."""
        side, cells = self.side, self.side // CELL
        channels = int(self.vae.config["noise_channels"])
        return {
            "images": torch.empty(size, 3, side, side),
            "low": torch.empty(size, 3, side // 4, side // 4),
            "levels": torch.zeros(size, dtype=torch.long),
            "made": torch.zeros(size, dtype=torch.bool),
            "spread": torch.empty(size),
            "spoil": torch.empty(size, 6, cells, cells),
            "noise": torch.empty(size, channels, cells, cells),
        }

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Crops with their low images, the decoder's noise and the noise of the latents."""
        crops = self.crops.draw(rng, size, self.side)
        return self._items(crops, rng)

    def _items(self, crops: Crops, rng: np.random.Generator) -> dict[str, Tensor]:
        n, cells = len(crops.images), crops.images.shape[1] // CELL
        spread = np.where(rng.random(n) < NOISY, rng.uniform(0, STRONGEST, n), 0)
        made = np.zeros(n, bool) if crops.made is None else crops.made
        if self.vae.texture is not None:
            spread[made] = 0
        return {
            "images": to_signed(crops.images),
            "low": to_signed(crops.low),
            "levels": torch.from_numpy(crops.levels),
            "made": torch.from_numpy(made),
            "spread": torch.from_numpy(spread.astype(np.float32)),
            "spoil": torch.from_numpy(rng.standard_normal((n, 6, cells, cells), np.float32)),
            "noise": torch.from_numpy(
                rng.standard_normal(
                    (n, int(self.vae.config["noise_channels"]), cells, cells), np.float32
                )
            ),
        }

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Stage.loss`: with the discriminators at full weight."""
        return self._push(batch, 1.0, False).loss

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name."""
        seen = int(self.discriminator.seen)
        rise = min(1.0, max(0.0, (seen - self.warmup) / RISE))
        push = self._push(batch, rise, self.training and seen % MEASURE == 0)
        if self.training:
            self.discriminator.seen += 1
        return {"loss": push.loss, **push.parts}

    def _push(self, batch: dict[str, Tensor], rise: float, measure: bool) -> Push:
        low, real = batch["low"], batch["images"]
        latents = self.vae.from_planes(coarse_planes(low))
        latents = latents + batch["spread"].view(-1, 1, 1, 1) * batch["spoil"]
        decoded = self._decoded(latents, batch)
        with torch.no_grad():
            seen = planes_image(self.vae.to_planes(latents)).float()
            agree = torch.where(
                batch["spread"] > 0, AGREE["noisy"], torch.ones_like(batch["spread"])
            )
            if self.vae.texture is None:
                agree = torch.where(batch["made"], AGREE["made"], agree)
        small = slice(self.border // 4, -self.border // 4)
        decoded, real = (x[..., self.inner, self.inner] for x in (decoded, real))
        restored = None if self.vae.texture is None else batch["made"]
        return self.objective(
            decoded, real, seen[..., small, small], agree, rise, measure, restored
        )

    def _decoded(self, latents: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Images of latents, restored where a denoiser made them and the decoder learns to."""
        made = batch["made"].to(latents)
        return self.vae.decode(latents, batch["noise"], batch["levels"], made).float()

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Figures of fixed crops by level.

        Returns:
            `psnr` (dB), `detail` (as a fraction of the real image's finest detail) and, with
            features, `statistics`: distance of map statistics, in units of how real crops differ.
        """
        found = {}
        for name, store in (("seen", self.crops), ("held-out", self.held_out_crops)):
            if store is None:
                continue
            out, real, levels = self._shown(store, 32)
            for level in np.unique(levels):
                a, b = out[levels == level], real[levels == level]
                square = (a - b).square().mean((1, 2, 3)) / 4
                detail = _laplacian(a).abs().mean() / _laplacian(b).abs().mean()
                found[f"{name}/{level}/psnr"] = float((-10 * torch.log10(square)).mean())
                found[f"{name}/{level}/detail"] = float(detail)
                if self.objective.features is not None:
                    found[f"{name}/{level}/statistics"] = self._statistics(a, b)
        return found

    @torch.no_grad()
    def _statistics(self, decoded: Tensor, real: Tensor) -> float:
        features, device = self.objective.features, self.vae.mean.device
        assert features is not None
        total = 0.0
        for a, b in zip(decoded.split(8), real.split(8), strict=True):
            maps = [features(x.to(device)) for x in (a, b)]
            total += float(self.discriminator.scales.statistics_loss(*maps).sum())
        return total / len(decoded)

    def score(self, found: dict[str, float]) -> float:
        """By map statistics, or PSNR without features; of held-out cases if there are any.

        PSNR would choose the softest weights.
        """
        name = "held-out" if self.held_out_crops is not None else "seen"
        of = {k: v for k, v in found.items() if k.startswith(f"{name}/")}
        far = [v for k, v in of.items() if k.endswith("/statistics")]
        return -float(np.mean(far)) if far else self._psnr(of)

    @staticmethod
    def _psnr(found: dict[str, float]) -> float:
        return float(np.mean([v for k, v in found.items() if k.endswith("/psnr")]))

    def _shown(self, store: CropSource, count: int) -> tuple[Tensor, Tensor, NDArray]:
        rng = np.random.default_rng(3)
        crops = store.draw(rng, count, 256)
        batch = self._items(crops, rng)
        device = self.vae.mean.device
        out = []
        for i in range(0, count, 4):
            part = {k: v[i : i + 4].to(device) for k, v in batch.items() if k != "shift"}
            latents = self.vae.from_planes(coarse_planes(part["low"]))
            out.append(self._decoded(latents, part))
        return torch.cat(out).clamp(-1, 1).cpu(), batch["images"], crops.levels

    def images(self) -> np.ndarray:
        """Real crops, their low-pass images enlarged, and decoded."""
        out, real, _ = self._shown(self.held_out_crops or self.crops, 8)
        low = F.interpolate(
            planes_image(self.vae.planes(real.to(self.vae.mean.device))).cpu(),
            scale_factor=4,
            mode="bicubic",
        )
        rows = [np.concatenate(list(to_pixels(x)), 1) for x in (real, low, out)]
        return np.concatenate(rows)


def _laplacian(x: Tensor) -> Tensor:
    return x - F.avg_pool2d(x, 3, 1, 1)
