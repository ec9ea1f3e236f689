"""The released autoencoder (VQ-f4) through diffusers' class."""

from diffusers import VQModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor


class VQAutoencoder(ModelMixin, ConfigMixin):
    """Vector-quantised autoencoder; its latents are those before quantisation.

    Sides of images must be divisible by the factor, 2 ** (levels - 1).

    Args:
        latent_channels: channels C of the latents and of the codebook.
        codebook: entries of the codebook.
        widths: channels at each resolution, finest first.
        depth: residual blocks at each resolution of the encoder; the decoder has one more.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 3,
        codebook: int = 8192,
        widths: tuple[int, ...] = (128, 256, 512),
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.vq = VQModel(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=depth,
            latent_channels=latent_channels,
            num_vq_embeddings=codebook,
            scaling_factor=1.0,
        )

    @property
    def factor(self) -> int:
        """Side of an image divided by that of its latents."""
        return 2 ** (len(self.config["widths"]) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f), not quantised."""
        return self.vq.encode(images, return_dict=False)[0]

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codebook entries: (latents' shape, indices (B * h * w,) in raster order)."""
        nearest, _, (_, _, indices) = self.vq.quantize(latents)
        return nearest, indices

    def decode(self, latents: Tensor, quantise: bool = True) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, f h, f w), about [-1, 1], not clamped.

        Args:
            latents: from `encode` or a denoiser.
            quantise: whether each cell is first replaced by its nearest codebook entry.
        """
        return self.vq.decode(latents, force_not_quantize=not quantise, return_dict=False)[0]

    def forward(self, images: Tensor) -> Tensor:
        """Round trip."""
        return self.decode(self.encode(images))
