"""Denoiser of one octave: latents given a context and a hint, with a linear-Gaussian head."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

NONE, PARENT, BASE = 0, 1, 2  # kinds of hint
KINDS = 3


class OctaveDenoiser(ModelMixin, ConfigMixin):
    """Predicts v of latents from their context and a hint of them.

    The hint is what is already known of the same patch, laid out as its latents: the parent's
    quarter, one octave coarser, with Gaussian noise of a known level (conditioning augmentation,
    Ho et al. 2022, section 4), or the stored base layer, with its codec's loss, or nothing.

    A linear head predicts mean and variance of the latents from context and hint, and a U-Net
    learns what a Gaussian of that mean and variance leaves unexplained:
    v = sigma (alpha (1 - s) r / d - mu) + sqrt(s / d) U, with r = x_t - alpha mu and
    d = alpha^2 s + sigma^2. Before training U is zero, so the network starts with the Gaussian's
    loss.

    Args:
        latent_channels: channels C of the latents.
        widths: channels of the U-Net at 32, 16 and 8 cells a side.
        depth: residual blocks at each of them.
        heads: attention heads in the middle.
        context_dim: length of a context token.
        spatial_context: channels of the spatial context.
        levels: number of levels.
        sample_size: cells along a patch's side.
        beta_start: first beta of the schedule, which is linear in the root of beta.
        beta_end: last beta of the schedule.
        timesteps: number of timesteps in the schedule.
        outline: whether tokens begin with an outline of their latents (`Outline`), which is then
            the head's first guess.
        blends: number of linear maps from hint and outline to the head's mean: one per level, or
            1 for all of them.
    """

    alphas: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 6,
        widths: tuple[int, ...] = (48, 96, 192),
        depth: int = 1,
        heads: int = 4,
        context_dim: int = 512,
        spatial_context: int = 32,
        levels: int = 8,
        sample_size: int = 32,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        timesteps: int = 1000,
        outline: bool = False,
        blends: int = 1,
    ) -> None:
        super().__init__()
        c = latent_channels
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps) ** 2
        self.register_buffer("alphas", torch.cumprod(1 - betas, 0), persistent=False)
        self.zoom = sample_size // 8
        self.read = nn.Conv2d(context_dim, c * self.zoom**2, 1)
        blend = [nn.Conv2d(2 * c, c, 5, padding=2) for _ in range((KINDS - 1) * blends)]
        self.blend = nn.ModuleList(blend)
        # log-variance by level, kind of hint, with or without context
        self.spread = nn.Parameter(torch.zeros(levels, KINDS, 2, c))
        for layer in (self.read, *blend):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for layer in blend:
            with torch.no_grad():  # the hint itself is the first guess
                for i in range(c):
                    layer.weight[i, i, 2, 2] = 1
        if outline:
            with torch.no_grad():
                self.read.weight[:, : c * self.zoom**2, 0, 0] = torch.eye(c * self.zoom**2)
        self.place = nn.Conv2d(context_dim, spatial_context, 1)
        self.unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=4 * c + spatial_context + 3,
            out_channels=c,
            block_out_channels=tuple(widths),
            layers_per_block=depth,
            down_block_types=("DownBlock2D",) * len(widths),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=("UpBlock2D",) * len(widths),
            attention_head_dim=heads,
            cross_attention_dim=context_dim,
            norm_num_groups=8 if widths[0] >= 32 else 4,  # one channel per group loses the time
            class_embed_type="projection",
            projection_class_embeddings_input_dim=levels + KINDS + 2,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)  # type: ignore[arg-type]

    def head(
        self, context: Tensor, level: Tensor, hint: Tensor | None = None, kind: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean (B, C, h, w) and variance (B, C, 1, 1) of the latents before seeing any of them."""
        side = round(context.shape[1] ** 0.5)
        where = context.transpose(1, 2).unflatten(2, (side, side))
        own = F.pixel_shuffle(self.read(where), self.zoom)
        given = (context.abs().amax((1, 2)) > 0).long()
        if hint is None or kind is None:
            kind = torch.zeros_like(given)
            mean = own
        else:
            blended = self._blend(torch.cat([hint, own], 1), level, kind)
            mean = torch.where((kind == NONE).view(-1, 1, 1, 1), own, blended)
        log = self.spread[level, kind, given].clamp(-8, 4)
        return mean, log.exp()[:, :, None, None]

    def _blend(self, both: Tensor, level: Tensor, kind: Tensor) -> Tensor:
        """Apply the map of each item's level and kind, as one grouped convolution."""
        chosen = (kind - 1).clamp(min=0)
        if self.config["blends"] > 1:
            chosen = chosen + (KINDS - 1) * level
        layers = [layer for layer in self.blend if isinstance(layer, nn.Conv2d)]
        weight = torch.stack([layer.weight for layer in layers])[chosen].flatten(0, 1)
        blended = F.conv2d(both.flatten(0, 1)[None], weight, padding=2, groups=len(both))
        blended = blended[0].unflatten(0, (len(both), -1))
        for i, layer in enumerate(layers):
            if layer.bias is not None:
                blended = blended + (chosen == i).view(-1, 1, 1, 1) * layer.bias.view(-1, 1, 1)
        return blended

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        context: Tensor,
        level: Tensor | None = None,
        hint: Tensor | None = None,
        kind: Tensor | None = None,
        noise: Tensor | None = None,
        head: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Predict v.

        Args:
            latents: (B, C, h, w), noisy.
            time: (B,) timesteps, 0..999.
            context: (B, 64, context_dim); zeros if there is none.
            level: (B,) 0..levels - 1; None for 20x.
            hint: (B, C, h, w), laid out as the latents; None for none at all.
            kind: (B,) NONE, PARENT or BASE for each.
            noise: (B,) std of the Gaussian noise added to a parent, or the loss of the base
                layer's codec, 0 to 1.
            head: mean and variance, if already computed.

        Returns:
            (B, C, h, w).
        """
        b, _, h, w = latents.shape
        if level is None:
            level = torch.zeros(b, dtype=torch.long, device=latents.device)
        if hint is None or kind is None:
            hint, kind = torch.zeros_like(latents), torch.zeros_like(level)
        if noise is None:
            noise = latents.new_zeros(b)
        hint = hint * (kind > 0).view(-1, 1, 1, 1)
        mean, variance = head or self.head(context, level, hint, kind)
        mean, variance = mean.detach(), variance.detach()
        bar = self.alphas[time].to(latents).view(-1, 1, 1, 1)
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        total = bar * variance + 1 - bar
        rest = latents - alpha * mean
        gauss = sigma * (alpha * (1 - variance) * rest / total - mean)
        guess = mean + alpha * variance / total * rest
        side = round(context.shape[1] ** 0.5)
        where = context.transpose(1, 2).unflatten(2, (side, side))
        where = F.interpolate(self.place(where), (h, w), mode="bilinear", align_corners=False)
        kinds = F.one_hot(kind, KINDS).to(latents)
        flags = torch.cat([kinds[:, 1:], noise[:, None]], 1)[:, :, None, None].expand(b, 3, h, w)
        given = (context.abs().amax((1, 2)) > 0).to(latents)
        code = torch.cat(
            [
                F.one_hot(level, int(self.config["levels"])).to(latents),
                kinds,
                noise[:, None],
                given[:, None],
            ],
            1,
        )
        x = torch.cat([rest / total.sqrt(), guess, mean, hint, where, flags], 1)
        out = self.unet(x, time, context, class_labels=code, return_dict=False)[0]
        return gauss + (variance / total).sqrt() * out
