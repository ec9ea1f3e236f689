"""Autoencoders: images to latents and back, frozen while the denoiser trains."""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip, without normalisation: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus its residual."""
        return x + self.second(F.silu(self.first(F.silu(x))))


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


class FoldedAutoencoder(ModelMixin, ConfigMixin):
    """Autoencoder of factor 8 that works on 4 x 4-folded pixels, so that a CPU can run it.

    Latents leave the encoder standardised per channel (running mean and variance of training),
    so no scaling factor is needed.

    Args:
        latent_channels: channels C of the latents.
        encoder_widths: channels at 1/4 and at 1/8 of the side.
        encoder_depths: residual blocks at each of these two scales.
        decoder_widths: the decoder's channels at 1/4 and 1/8.
        decoder_depths: the decoder's residual blocks.
    """

    factor = 8

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        encoder_widths: tuple[int, int] = (96, 192),
        encoder_depths: tuple[int, int] = (2, 2),
        decoder_widths: tuple[int, int] = (112, 224),
        decoder_depths: tuple[int, int] = (2, 3),
    ) -> None:
        super().__init__()
        fine, coarse = encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *_blocks(fine, encoder_depths[0]),
            nn.Conv2d(fine, coarse, 2, stride=2),
            *_blocks(coarse, encoder_depths[1]),
            nn.Conv2d(coarse, latent_channels, 1),
        )
        self.standardise = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.01)
        fine, coarse = decoder_widths
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *_blocks(coarse, decoder_depths[1]),
            nn.Conv2d(coarse, fine * 4, 1),
            nn.PixelShuffle(2),
            *_blocks(fine, decoder_depths[0]),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], sides divisible by 8, to latents (B, C, H/8, W/8)."""
        return self.standardise(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, 8 h, 8 w), about [-1, 1], not clamped."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        """Round trip of images (B, 3, H, W)."""
        return self.decode(self.encode(images))
