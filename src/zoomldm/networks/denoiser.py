"""The denoiser: diffusers' U-Net behind one builder, on folded latents."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


def build_unet(
    channels_in: int,
    channels_out: int,
    widths: tuple[int, ...],
    depth: int,
    heads: int,
    context_dim: int,
    attention: tuple[bool, ...],
    sample_size: int,
) -> UNet2DConditionModel:
    """Diffusers' conditional U-Net under this project's parameter names.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the prediction.
        widths: channels at each resolution, finest first.
        depth: residual blocks at each resolution.
        heads: attention heads.
        context_dim: length of a context token.
        attention: whether each resolution attends to the context.
        sample_size: side of the input.
    """
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=channels_in,
        out_channels=channels_out,
        block_out_channels=widths,
        layers_per_block=depth,
        # Despite its name, diffusers' `attention_head_dim` is the number of heads here.
        attention_head_dim=heads,
        cross_attention_dim=context_dim,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)
        ),
        norm_num_groups=16 if widths[0] % 32 else 32,
    )


class Denoiser(ModelMixin, ConfigMixin):
    """U-Net on latents folded `fold` x `fold`; reads the context as tokens and spatially.

    Context tokens are aligned with the patch (token 8 i + j is cell (i, j)), so they are also
    laid out as an 8 x 8 image, scaled to the folded latents and given as input channels.

    Args:
        latent_channels: channels C of the latents.
        fold: side of the latent blocks that become channels.
        spatial_context: channels of the spatial context; 0 for none.
        widths: see `build_unet`.
        depth: see `build_unet`.
        heads: see `build_unet`.
        context_dim: length of a context token.
        attention: see `build_unet`.
        sample_size: side of the latents.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        fold: int = 2,
        spatial_context: int = 64,
        widths: tuple[int, ...] = (128, 160),
        depth: int = 1,
        heads: int = 4,
        context_dim: int = 512,
        attention: tuple[bool, ...] = (False, True),
        sample_size: int = 32,
    ) -> None:
        super().__init__()
        folded = latent_channels * fold**2
        self.place = nn.Conv2d(context_dim, spatial_context, 1) if spatial_context else None
        self.unet = build_unet(
            folded + spatial_context,
            folded,
            tuple(widths),
            depth,
            heads,
            context_dim,
            tuple(attention),
            sample_size // fold,
        )
        self.fold = fold

    def forward(self, latents: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Predict the quantity named by the scheduler's prediction type.

        Args:
            latents: (B, C, h, w), noisy.
            time: (B,) timesteps, 0..999.
            context: (B, 64, context_dim).

        Returns:
            (B, C, h, w).
        """
        x = F.pixel_unshuffle(latents, self.fold)
        if self.place is not None:
            side = round(context.shape[1] ** 0.5)
            where = context.transpose(1, 2).unflatten(2, (side, side))
            where = self.place(where)
            x = torch.cat([x, F.interpolate(where, x.shape[2:], mode="bilinear")], 1)
        x = self.unet(x, time, context, return_dict=False)[0]
        return F.pixel_shuffle(x, self.fold)
