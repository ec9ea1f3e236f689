"""Low-pass latents: a patch two octaves coarser, as a linear map, and a learned decoder back.

Latents of level k are the pixels of level k + 2: luminance at 1/4 of the side and chroma at 1/8.
Their spectrum falls off as an image's does, so that a diffusion model can predict them, and they
can be pooled, shifted and blended like pixels.
"""

import math
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

BANDS = 24
CELL = 8  # pixels along the side of one latent cell
BLOCK = 16  # pixels along the side of the blocks whose bands are scaled
OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))


class Planes(NamedTuple):
    """An image two octaves coarser, in orthonormal opponent colours of signed pixels.

    Attributes:
        luma: (B, 1, 2 h, 2 w), one value per 4 x 4 px.
        chroma: (B, 2, h, w), one value per 8 x 8 px.
    """

    luma: Tensor
    chroma: Tensor


def _opponent(like: Tensor) -> Tensor:
    m = torch.tensor(OPPONENT, dtype=torch.float32)
    return (m / m.norm(dim=1, keepdim=True)).to(like)


def dct(n: int, like: Tensor) -> Tensor:
    """Orthonormal discrete cosine transform of n values as a matrix (n, n)."""
    k = torch.arange(n, dtype=torch.float32)
    d = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / n)
    d[0] *= 2**-0.5
    return (d * (2 / n) ** 0.5).to(like)


def fold(x: Tensor, n: int) -> Tensor:
    """DCT of every n x n block: (B, C, H, W) to (B, C n n, H / n, W / n), orthonormal."""
    b, c, h, w = x.shape
    d = dct(n, x)
    x = x.reshape(b, c, h // n, n, w // n, n)
    return torch.einsum("ui,vj,bchiwj->bcuvhw", d, d, x).reshape(b, c * n * n, h // n, w // n)


def unfold(z: Tensor, n: int) -> Tensor:
    """Undo `fold`."""
    b, c, h, w = z.shape
    d = dct(n, z)
    z = z.reshape(b, c // (n * n), n, n, h, w)
    return torch.einsum("ui,vj,bcuvhw->bchiwj", d, d, z).reshape(b, -1, h * n, w * n)


def coarse_planes(image: Tensor) -> Planes:
    """Planes of an image already two octaves coarser: (B, 3, H, W) in [-1, 1], sides even."""
    x = torch.einsum("kc,bchw->bkhw", _opponent(image), image)
    return Planes(x[:, :1], F.avg_pool2d(x[:, 1:], 2))


def planes_image(planes: Planes) -> Tensor:
    """Image (B, 3, 2 h, 2 w) with exactly the given planes and smooth chroma."""
    chroma = F.interpolate(planes.chroma, scale_factor=2, mode="bilinear", align_corners=False)
    missing = planes.chroma - F.avg_pool2d(chroma, 2)
    chroma = chroma + F.interpolate(missing, scale_factor=2, mode="nearest")
    x = torch.cat([planes.luma, chroma], 1)
    return torch.einsum("kc,bkhw->bchw", _opponent(x), x)


def pooled(planes: Planes) -> Planes:
    """Planes of the next coarser level: each averaged over 2 x 2."""
    return Planes(F.avg_pool2d(planes.luma, 2), F.avg_pool2d(planes.chroma, 2))


def enlarged(planes: Planes) -> Planes:
    """Planes twice the side, every value repeated, so that `pooled` gives them back."""
    return Planes(*(p.repeat_interleave(2, -1).repeat_interleave(2, -2) for p in planes))


def _bicubic(small: Tensor) -> Tensor:
    return F.interpolate(small, scale_factor=4, mode="bicubic", align_corners=False)


class _Block(nn.Module):
    """Residual block without spatial normalisation: its output depends only on nearby input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.normal_(self.mix.weight, std=0.1 / channels**0.5)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(self.spread(x)))


class LowPassAutoencoder(ModelMixin, ConfigMixin):
    """Fixed low-pass encoder and learned stochastic decoder, both local and of factor 8.

    `encode` takes luminance at 1/4 and chroma at 1/8 of the side in orthonormal opponent colours,
    divides each of the 24 bands of a 16 px block (DCT) by the root of its std, and arranges them
    as 6 channels at 1/8: DCT of 2 x 2 luminance, two chromas.

    `decode` enlarges the low-pass image and adds details, which a network without spatial
    normalisation computes from latents and noise. It then sets the mean of every 4 x 4 px to the
    latents' value: the averaged image equals that of its latents (and of the texture that it adds
    to them, see below) by construction. Correcting each block on its own would show as squares of
    4 px, so nearly all of the correction is added smoothly before.

    A denoiser's first prediction is the mean of the possible latents, and has less texture than
    any of them. A decoder that `restores` adds to such latents what they lack before it decodes
    them, as single-image super-resolution does (Ledig et al. 2017): the same at every place with
    the same surroundings, so that neighbouring windows can't differ. Means of luminance over a cell
    (8 x 8 px) stay as given.

    Args:
        latent_channels: 6.
        noise_channels: channels of the noise at 1/8 that `decode` reads.
        widths: channels of the decoder at 1/8, 1/4 and 1/2 of the side.
        depths: residual blocks at each.
        levels: number of levels that the decoder distinguishes.
        fine_noise: channels of noise that enter at 1/4 and at 1/2 of the side. They are the last
            of `noise_channels`, 4 and 16 for each, so that noise stays a map of cells.
        smooth: how often the means are corrected bicubically before they are corrected per block;
            None for never.
        restores: whether it adds texture to expected latents; see above.
    """

    factor = CELL
    mean: Tensor
    scale: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 6,
        noise_channels: int = 2,
        widths: tuple[int, int, int] = (128, 64, 32),
        depths: tuple[int, int, int] = (6, 5, 3),
        levels: int = 8,
        fine_noise: tuple[int, int] = (0, 0),
        smooth: int | None = None,
        restores: bool | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(BANDS))
        self.register_buffer("scale", torch.ones(BANDS))
        a, b, c = widths
        self.noises = [noise_channels - 4 * fine_noise[0] - 16 * fine_noise[1]]
        self.noises += [4 * fine_noise[0], 16 * fine_noise[1]]
        if self.noises[0] < 0:
            raise ValueError(
                f"fine_noise {fine_noise} takes 4 and 16 channels for each; {noise_channels} "
                "noise_channels are too few"
            )
        self.enter = nn.Conv2d(latent_channels + self.noises[0], a, 3, padding=1)
        self.level = nn.Embedding(levels, a)
        nn.init.zeros_(self.level.weight)
        self.coarse = nn.Sequential(*(_Block(a) for _ in range(depths[0])))
        self.up1 = nn.Conv2d(a, 4 * b, 1)
        self.middle = nn.Sequential(*(_Block(b) for _ in range(depths[1])))
        self.up2 = nn.Conv2d(b, 4 * c, 1)
        self.fine = nn.Sequential(*(_Block(c) for _ in range(depths[2])))
        self.leave = nn.Conv2d(c, 12, 3, padding=1)
        self.grain1, self.grain2 = (
            nn.Conv2d(n, width, 1, bias=False) if n else None
            for n, width in zip(fine_noise, (b, c), strict=True)
        )
        for grain in (self.grain1, self.grain2):
            if grain is not None:
                nn.init.zeros_(grain.weight)
        self.mark = nn.Parameter(torch.zeros(a)) if restores else None  # of expected latents
        self.texture = nn.Conv2d(a, latent_channels - 1, 3, padding=1) if restores else None
        for layer in (self.leave, self.texture):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @property
    def restores(self) -> bool:
        """Whether it adds texture to expected latents: once it has been trained to."""
        return self.texture is not None and bool(self.texture.weight.any())

    @property
    def halo(self) -> int:
        """Cells around a window that influence its pixels, rounded up."""
        coarse, middle, fine = self.config["depths"]
        around = 1 + coarse + middle / 2 + fine / 4 + 1 + (self.config["smooth"] or 0)
        return math.ceil(around + (self.texture is not None))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set the bands' scaling from their mean and std over training patches, (24,)."""
        root = std.sqrt()
        common = (std / root).square().mean().sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(root * common)

    def bands(self, planes: Planes) -> Tensor:
        """Convert planes to unscaled bands (B, 24, H / 16, W / 16)."""
        return torch.cat([fold(planes.luma, 4), fold(planes.chroma, 2)], 1)

    def from_planes(self, planes: Planes) -> Tensor:
        """Convert planes, sides multiples of 4 (luma), to latents (B, 6, h, w)."""
        z = (self.bands(planes) - self.mean.view(1, -1, 1, 1)) / self.scale.view(1, -1, 1, 1)
        return torch.cat([fold(unfold(z[:, :16], 4), 2), unfold(z[:, 16:], 2)], 1)

    def to_planes(self, latents: Tensor) -> Planes:
        """Undo `from_planes`."""
        z = torch.cat([fold(unfold(latents[:, :4], 2), 4), fold(latents[:, 4:], 2)], 1)
        z = z * self.scale.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
        return Planes(unfold(z[:, :16], 4), unfold(z[:, 16:], 2))

    def planes(self, images: Tensor) -> Planes:
        """Images (B, 3, H, W) in [-1, 1] to planes."""
        return coarse_planes(F.avg_pool2d(images, 4))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], sides multiples of 16, to latents (B, 6, H/8, W/8)."""
        return self.from_planes(self.planes(images))

    def decode(
        self,
        latents: Tensor,
        noise: Tensor | None = None,
        level: Tensor | None = None,
        expected: Tensor | None = None,
    ) -> Tensor:
        """Latents to images.

        Args:
            latents: (B, 6, h, w).
            noise: (B, noise_channels, h, w) standard normal, selects among the details that the
                latents leave open; None for zeros.
            level: (B,) level of each; None for 20x.
            expected: (B,) 1 where the latents are the mean of the possible ones, whose missing
                texture is added, else 0; None for zeros. Without effect unless it `restores`.

        Returns:
            (B, 3, 8 h, 8 w), about [-1, 1], not clamped; averaged over 4 x 4 it equals the image
            of the latents' planes, with their texture where they are expected ones.
        """
        details, texture = self.details(latents, noise, level, expected)
        return self.assembled(latents + texture, details)

    def assembled(self, latents: Tensor, details: Tensor) -> Tensor:
        """Image of latents plus details (B, 3, 8 h, 8 w), corrected to keep the latents' means."""
        small = planes_image(self.to_planes(latents))
        image = _bicubic(small) + details
        for _ in range(self.config["smooth"] or 0):
            image = image + _bicubic(small - F.avg_pool2d(image, 4))
        missing = small - F.avg_pool2d(image, 4)
        return image + F.interpolate(missing, scale_factor=4, mode="nearest")

    def details(
        self,
        latents: Tensor,
        noise: Tensor | None = None,
        level: Tensor | None = None,
        expected: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The network's part of `decode`.

        Returns:
            Details (B, 3, 8 h, 8 w), and the texture that latents lack, (B, 6, h, w), 0 in the
            first channel; `assembled` makes an image of them.
        """
        b, _, h, w = latents.shape
        if noise is None:
            noise = latents.new_zeros(b, int(self.config["noise_channels"]), h, w)
        if level is None:
            level = torch.zeros(b, dtype=torch.long, device=latents.device)
        own, middle, fine = noise.split(self.noises, 1)
        x = self.enter(torch.cat([latents, own], 1)) + self.level(level)[:, :, None, None]
        if expected is not None and self.mark is not None and self.texture is not None:
            factor = expected.to(x).view(-1, 1, 1, 1)
            x = self.coarse(x + factor * self.mark.view(1, -1, 1, 1))
            texture = F.pad(factor * self.texture(x), (0, 0, 0, 0, 1, 0))
        else:
            x, texture = self.coarse(x), torch.zeros_like(latents)
        x = F.pixel_shuffle(self.up1(x), 2)
        if self.grain1 is not None:
            x = x + self.grain1(F.pixel_shuffle(middle, 2))
        x = F.pixel_shuffle(self.up2(self.middle(x)), 2)
        if self.grain2 is not None:
            x = x + self.grain2(F.pixel_shuffle(fine, 4))
        return F.pixel_shuffle(self.leave(self.fine(x)), 2), texture

    def forward(self, images: Tensor) -> Tensor:
        """Round trip of images (B, 3, H, W)."""
        return self.decode(self.encode(images))


def restoring(vae: LowPassAutoencoder) -> LowPassAutoencoder:
    """A copy of an autoencoder that can learn to restore; itself if it can already."""
    if vae.texture is not None:
        return vae
    settings: dict[str, Any] = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    settings["restores"] = True
    found = LowPassAutoencoder(**settings)
    lacking, unknown = found.load_state_dict(vae.state_dict(), strict=False)
    assert not unknown and all(k == "mark" or k.startswith("texture.") for k in lacking)
    nn.Module.to(found, vae.mean.device)
    return found
