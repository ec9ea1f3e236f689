"""Stage 1: the autoencoder, on crops of patches of every level."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.data.slide_patches import SlidePatches
from zoomldm.networks.autoencoder import FoldedAutoencoder
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.training.assembly import start_frozen_network
from zoomldm.training.stage import Data, Stage, Start


def _detail(x: Tensor) -> Tensor:
    """What a 2 x 2 mean loses: edges and nuclei."""
    return x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)


def _difference(out: Tensor, images: Tensor) -> Tensor:
    """L1 + squared error + L1 of the finest detail."""
    error = out - images
    return error.abs().mean() + 5 * error.square().mean() + _detail(error).abs().mean()


class AutoencoderStage(Stage):
    """Reconstruction of images from latents that a denoiser can learn; half are of level 0.

    Two terms push the latents towards the spectrum of images, strong at low frequencies. Left
    alone they tend to white noise, which cannot be predicted. Latents of halved side must
    decode to the halved image (scale equivariance: Kouzelis et al. 2025, EQ-VAE, equation 4);
    and some crops are decoded under noise, so that what matters most is encoded most strongly.

    Args:
        autoencoder: the network.
        tiles: training patches.
        held_out: patches of held-out cases, or None.
        crop: side of the training crops in pixels.
        noise: standard deviation of the noise that all latents carry while training.
        strong: largest standard deviation under which a crop is decoded.
        noisy: fraction of the crops that get strong noise.
        equivariance: weight of the loss on halved images.
    """

    name = "autoencoder"
    source = "slides"
    trains = ("vae",)

    @classmethod
    def start(cls, start: Start) -> ZoomLDMPipeline:
        """Contexts stay valid, and so does the embedding diffusion."""
        return start_frozen_network(start, "vae", keep=("embedding_diffusion",))

    @classmethod
    def from_data(cls, base: ZoomLDMPipeline | None, start: Start, data: Data) -> Stage:
        """Train on patches of all levels."""
        assert base is not None and data.patches is not None
        autoencoder: FoldedAutoencoder = base.vae.requires_grad_(True)
        return cls(autoencoder, data.patches, data.held_out_patches)

    @classmethod
    def sketch(cls, base: ZoomLDMPipeline | None, start: Start) -> Stage:
        """See `Stage.sketch`."""
        assert base is not None
        return cls(base.vae.requires_grad_(True), SlidePatches.none())

    def __init__(
        self,
        autoencoder: FoldedAutoencoder,
        tiles: SlidePatches,
        held_out: SlidePatches | None = None,
        crop: int = 128,
        noise: float = 0.03,
        strong: float = 0.7,
        noisy: float = 0.3,
        equivariance: float = 0.5,
    ) -> None:
        super().__init__()
        self.noise, self.strong, self.noisy = noise, strong, noisy
        self.equivariance = equivariance
        self.autoencoder = autoencoder
        self.tiles, self.held_out_tiles, self.crop = tiles, held_out, crop
        self.levels = [tiles.at_level(k) for k in range(8) if len(tiles.at_level(k))]

    def networks(self) -> dict[str, nn.Module]:
        """The autoencoder alone."""
        return {"autoencoder": self.autoencoder}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Crops (size, 3, crop, crop) in [-1, 1], flipped and rotated; noise of the latents."""
        crops = np.empty((size, self.crop, self.crop, 3), np.uint8)
        for i in range(size):
            pool = self.levels[0 if rng.random() < 0.5 else rng.integers(len(self.levels))]
            y, x = rng.integers(0, 256 - self.crop + 1, 2)
            tile = self.tiles.read(int(rng.choice(pool)))
            tile = np.rot90(tile[y : y + self.crop, x : x + self.crop], int(rng.integers(4)))
            crops[i] = tile[::-1] if rng.random() < 0.5 else tile
        channels = self.autoencoder.config["latent_channels"]
        shape = (size, channels, self.crop // 8, self.crop // 8)
        deviation = np.where(
            rng.random(size) < self.noisy, rng.uniform(0, self.strong, size), self.noise
        )
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise *= deviation.astype(np.float32)[:, None, None, None]
        return {
            "pictures": to_signed(crops),
            "noise": torch.from_numpy(noise),
            "clean": torch.from_numpy(deviation <= self.noise),
        }

    def blank(self, size: int) -> dict[str, Tensor]:
        """See `Stage.blank`."""
        cells, channels = self.crop // 8, self.autoencoder.config["latent_channels"]
        return {
            "pictures": torch.empty(size, 3, self.crop, self.crop),
            "noise": torch.empty(size, channels, cells, cells),
        }

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Stage.loss`."""
        return self._losses(batch)[0]

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the loss of the halved images, and what was decoded."""
        images = batch["pictures"]
        latents = self.autoencoder.encode(images) + batch["noise"]
        out = self.autoencoder.decode(latents).float()
        small = self.autoencoder.decode(F.avg_pool2d(latents, 2)).float()
        halved = _difference(small, F.avg_pool2d(images, 2))
        return _difference(out, images) + self.equivariance * halved, halved, out

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses; `psnr` is that of crops without strong noise, `halved` the equivariance loss."""
        loss, halved, out = self._losses(batch)
        square = (out - batch["pictures"]).detach()[batch["clean"]].square().mean()
        return {
            "loss": loss,
            "halved": halved.detach(),
            "psnr": -10 * torch.log10(square / 4),
        }

    def _fixed(self, count: int) -> np.ndarray:
        store = self.held_out_tiles or self.tiles
        pool = store.at_level(0)
        chosen = pool[np.linspace(0, len(pool) - 1, min(count, len(pool))).astype(int)]
        return np.stack([store.read(int(i)) for i in chosen])

    def held_out(self) -> dict[str, float]:
        """Mean PSNR (dB) of up to 48 whole level-0 patches of held-out cases."""
        if self.held_out_tiles is None:
            return {}
        device = next(self.autoencoder.parameters()).device
        x = to_signed(self._fixed(48)).to(device)
        out = torch.cat([self.autoencoder(c).float() for c in x.split(8)]).clamp(-1, 1)
        error = (out - x).square().mean((1, 2, 3)) / 4
        return {"psnr": float((-10 * torch.log10(error)).mean())}

    def score(self, found: dict[str, float]) -> float:
        """PSNR."""
        return found["psnr"]

    def can_validate(self) -> bool:
        """Whether there are held-out cases."""
        return self.held_out_tiles is not None

    def images(self) -> np.ndarray:
        """Six patches above their reconstructions."""
        x = self._fixed(6)
        device = next(self.autoencoder.parameters()).device
        out = to_pixels(self.autoencoder(to_signed(x).to(device)))
        return np.concatenate([np.concatenate(list(x), 1), np.concatenate(list(out), 1)])
