"""Stage: the decoder of low-pass latents, by pixels, features and an adversary."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from zoomldm.data.crops import Crops, CropSource, PatchCrops
from zoomldm.networks.lowpass import CELL, LowPassAutoencoder, coarse_planes, planes_image
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.training.assembly import start_frozen_network
from zoomldm.training.config import DecoderConfig
from zoomldm.training.made_crops import MadeCrops
from zoomldm.training.perceptual import perceptual_features
from zoomldm.training.stage import Data, Kinds, Stage, Start

CROP = 144  # pixels a side that are decoded
BORDER = 8  # of them on each side without a loss: they lack a neighbourhood
NOISY = 0.3  # fraction of the crops whose latents carry noise
STRONGEST = 0.2  # standard deviation of that noise


Features = Callable[[Tensor], list[Tensor]]


def detail(image: Tensor) -> Tensor:
    """What an image (B, 3, H, W), sides multiples of 4, has beyond the means of its 4 x 4 px."""
    return image - F.interpolate(F.avg_pool2d(image, 4), scale_factor=4, mode="nearest")


class CropDiscriminator(ModelMixin, ConfigMixin):
    """Tells real details from decoded ones beside the low-pass image: (B, 6, H, W) to logits.

    It sees details alone: the means of 4 x 4 px are not the decoder's choice, and where a denoiser
    made them, they would give every decoded crop away.

    Args:
        width: channels at half of the side.
    """

    seen: Tensor  # batches that it was trained on

    @register_to_config
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(6, w, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(w, 2 * w, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * w, 4 * w, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(4 * w, 4 * w, 3, 1, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(4 * w, 1, 3, 1, 1)),
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, details: Tensor, low: Tensor) -> Tensor:
        """Logits (B, 1, H / 8, W / 8), high for real ones."""
        return self.layers(torch.cat([details, low], 1))


def fit_bands(
    autoencoder: LowPassAutoencoder, crops: CropSource, seed: int, count: int = 256
) -> None:
    """Set the scaling of the latents' bands from crops; nothing where it is set already."""
    if not bool((autoencoder.scale == 1).all()):
        return
    drawn = crops.draw(np.random.default_rng([seed, 1]), count, 256)
    bands = autoencoder.bands(coarse_planes(to_signed(drawn.low))).transpose(0, 1).flatten(1)
    autoencoder.fit(bands.mean(1), bands.std(1).clamp(min=1e-3))


def phase_loss(error: Tensor, side: int = CELL) -> Tensor:
    """Mean square over the places of a cell of the mean error there: zero without a chequerboard.

    Args:
        error: (B, 3, H, W).
        side: of a cell.
    """
    fine = error - F.avg_pool2d(error, 3, 1, 1)
    b, c, h, w = fine.shape
    fine = fine[..., : h // side * side, : w // side * side]
    cells = fine.reshape(b, c, h // side, side, w // side, side).mean((2, 4))
    return cells.square().mean()


class LowPassDecoderStage(Stage):
    """Images back from latents: L1, features, an adversary at a small weight after a warm-up.

    The latents are those of real images, or, where the crops say so, what a denoiser made.

    Args:
        autoencoder: its decoder is trained; its bands are scaled already.
        crops: training crops; None for a stage without data.
        held_out: crops of held-out cases, or None.
        features: images (B, 3, H, W) in [-1, 1] to feature maps; what a perceptual loss compares.
        adversary: weight of the adversary.
        warmup: steps before which the discriminator trains alone.
    """

    name = "lowpass-decoder"
    source = "slides"
    trains = ("vae",)
    Config = DecoderConfig

    @classmethod
    def fits(cls, kinds: Kinds) -> bool:
        """Latents that are a fixed map of the pixels."""
        return kinds["vae"] is LowPassAutoencoder

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Contexts stay as they are, and so does what draws them."""
        return start_frozen_network(start, "vae", keep=("embedding_diffusion", "context_network"))

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """On crops of patches, of which `made` have a low image that the denoiser made."""
        config, patches, kept = start.config, data.patches, data.kept_patches
        assert base is not None and patches is not None and isinstance(config, DecoderConfig)
        crops: CropSource = PatchCrops(patches)
        other: CropSource | None = PatchCrops(kept) if kept else None
        fit_bands(base.vae, crops, config.seed)
        if config.made:
            crops = MadeCrops(patches, base, crops, config.made)
            other = MadeCrops(kept, base, other, config.made) if kept and other else None
        return cls(base.vae, crops, other, perceptual_features(), config.adversary)

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
        features: Features | None = None,
        adversary: float = 0.05,
        warmup: int = 500,
        discriminator: CropDiscriminator | None = None,
    ) -> None:
        super().__init__()
        self.vae = autoencoder.requires_grad_(True)
        self.discriminator = discriminator or CropDiscriminator()
        if crops is not None:
            self.crops = crops
        self.kept = held_out
        self.features = features
        self.adversary, self.warmup = adversary, warmup

    def networks(self) -> dict[str, nn.Module]:
        """Autoencoder and discriminator."""
        return {"autoencoder": self.vae, "discriminator": self.discriminator}

    def frozen(self) -> list[nn.Module]:
        """The network of the features, where there is one."""
        owner = getattr(self.features, "__self__", None)
        return [owner] if isinstance(owner, nn.Module) else []

    def compilable(self) -> list[nn.Module]:
        """The decoder's three trunks: crops are of one size."""
        return [self.vae.coarse, self.vae.middle, self.vae.fine]

    def blocks(self) -> list[nn.Module]:
        """The decoder's."""
        return [*self.vae.coarse, *self.vae.middle, *self.vae.fine]

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`."""
        cells, channels = CROP // CELL, int(self.vae.config["noise_channels"])
        return {
            "images": torch.empty(size, 3, CROP, CROP),
            "low": torch.empty(size, 3, CROP // 4, CROP // 4),
            "levels": torch.zeros(size, dtype=torch.long),
            "spread": torch.empty(size),
            "spoil": torch.empty(size, 6, cells, cells),
            "noise": torch.empty(size, channels, cells, cells),
        }

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Crops with their low images, the decoder's noise and that of the latents."""
        drawn = self.crops.draw(rng, size, CROP)
        return self._items(drawn, rng)

    def _items(self, drawn: Crops, rng: np.random.Generator) -> dict[str, Tensor]:
        n, cells = len(drawn.images), drawn.images.shape[1] // CELL
        spread = np.where(rng.random(n) < NOISY, rng.uniform(0, STRONGEST, n), 0)
        return {
            "images": to_signed(drawn.images),
            "low": to_signed(drawn.low),
            "levels": torch.from_numpy(drawn.levels),
            "spread": torch.from_numpy(spread.astype(np.float32)),
            "spoil": torch.from_numpy(rng.standard_normal((n, 6, cells, cells), np.float32)),
            "noise": torch.from_numpy(
                rng.standard_normal(
                    (n, int(self.vae.config["noise_channels"]), cells, cells), np.float32
                )
            ),
            "shift": torch.from_numpy(rng.integers(0, CELL, 2)),
        }

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Stage.loss`: no crop's latents carry noise, and the adversary is at work."""
        return self._losses(batch, (0, 0), slice(None), self.warmup + 1)["loss"]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name."""
        y, x = batch["shift"].tolist()
        losses = self._losses(batch, (y, x))
        return {k: v if k == "loss" else v.detach() for k, v in losses.items()}

    def _losses(
        self,
        batch: dict[str, Tensor],
        shift: tuple[int, int],
        clean: slice | None = None,
        seen: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            batch: see `batch`.
            shift: where features are compared, in px.
            clean: crops that the adversary sees; None for those whose latents carry no noise.
            seen: batches that the discriminator knows; None to count them.
        """
        latents = self.vae.from_planes(coarse_planes(batch["low"]))
        latents = latents + batch["spread"].view(-1, 1, 1, 1) * batch["spoil"]
        out = self.vae.decode(latents, batch["noise"], batch["levels"]).float()
        inner = slice(BORDER, -BORDER)
        out, real = out[..., inner, inner], batch["images"][..., inner, inner]
        # Of the details: the rest is the latents', and may be a denoiser's guess.
        error = detail(out) - detail(real)
        losses = {"l1": error.abs().mean(), "phase": phase_loss(error)}
        loss = 3 * losses["l1"] + 20 * losses["phase"]
        if self.features is not None:
            y, x = shift
            a, b = out[..., y : y + 112, x : x + 112], real[..., y : y + 112, x : x + 112]
            with torch.no_grad():
                wanted = [_unit(f) for f in self.features(b)]
            made = [_unit(f) for f in self.features(a)]
            parts = [(m - w).square().sum(1).mean() for m, w in zip(made, wanted, strict=True)]
            losses["features"] = torch.stack(parts).mean()
            loss = loss + losses["features"]
        if self.adversary:
            loss = loss + self._adversary(batch, out, real, losses, clean, seen)
        return {"loss": loss, **losses}

    def _adversary(
        self,
        batch: dict[str, Tensor],
        out: Tensor,
        real: Tensor,
        losses: dict[str, Tensor],
        crops: slice | None = None,
        seen: int | None = None,
    ) -> Tensor:
        clean = batch["spread"] == 0 if crops is None else crops
        low = F.interpolate(batch["low"], scale_factor=4, mode="bilinear", align_corners=False)
        low = low[..., BORDER:-BORDER, BORDER:-BORDER][clean]
        out, real = detail(out[clean]), detail(real[clean])
        loss = out.new_zeros(())
        if not len(out):
            return loss
        if seen is None:
            if self.training:
                self.discriminator.seen += 1
            seen = int(self.discriminator.seen)
        told = self.discriminator(torch.cat([out.detach(), real]), torch.cat([low, low]))
        fake, true = told.chunk(2)
        losses["hinge"] = F.relu(1 + fake).mean() + F.relu(1 - true).mean()
        loss = loss + losses["hinge"]
        if seen > self.warmup:
            frozen = {k: v.detach() for k, v in self.discriminator.named_parameters()}
            frozen |= dict(self.discriminator.named_buffers())
            losses["fooled"] = -functional_call(self.discriminator, frozen, (out, low)).mean()
            rise = min(1.0, (seen - self.warmup) / 500)
            loss = loss + rise * self.adversary * losses["fooled"]
        return loss

    def held_out(self) -> dict[str, float]:
        """PSNR (dB) and fraction of the real image's finest detail on fixed crops."""
        found = {}
        for name, store in (("seen", self.crops), ("held-out", self.kept)):
            if store is None:
                continue
            out, real, levels = self._shown(store, 32)
            for level in np.unique(levels):
                a, b = out[levels == level], real[levels == level]
                square = (a - b).square().mean((1, 2, 3)) / 4
                detail = _laplacian(a).abs().mean() / _laplacian(b).abs().mean()
                found[f"{name}/{level}/psnr"] = float((-10 * torch.log10(square)).mean())
                found[f"{name}/{level}/detail"] = float(detail)
        return found

    def score(self, found: dict[str, float]) -> float:
        """Mean PSNR over the levels, of held-out cases where there are any."""
        name = "held-out" if self.kept is not None else "seen"
        values = [v for k, v in found.items() if k.startswith(f"{name}/") and k.endswith("/psnr")]
        return float(np.mean(values))

    def _shown(self, store: CropSource, count: int) -> tuple[Tensor, Tensor, NDArray]:
        rng = np.random.default_rng(3)
        drawn = store.draw(rng, count, 256)
        batch = self._items(drawn, rng)
        device = self.vae.mean.device
        out = []
        for i in range(0, count, 4):
            part = {k: v[i : i + 4].to(device) for k, v in batch.items() if k != "shift"}
            latents = self.vae.from_planes(coarse_planes(part["low"]))
            out.append(self.vae.decode(latents, part["noise"], part["levels"]).float())
        return torch.cat(out).clamp(-1, 1).cpu(), batch["images"], drawn.levels

    def images(self) -> np.ndarray:
        """Real crops, their low-pass image enlarged, and decoded."""
        out, real, _ = self._shown(self.kept or self.crops, 8)
        low = F.interpolate(
            planes_image(self.vae.planes(real.to(self.vae.mean.device))).cpu(),
            scale_factor=4,
            mode="bicubic",
        )
        rows = [np.concatenate(list(to_pixels(x)), 1) for x in (real, low, out)]
        return np.concatenate(rows)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


def _laplacian(x: Tensor) -> Tensor:
    return x - F.avg_pool2d(x, 3, 1, 1)
