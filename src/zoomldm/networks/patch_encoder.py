"""The demo patch encoder: maps a tile of 256 px to an embedding of 384 values."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

LAYOUT_SCALE = 0.35


def _conv(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(cout)
    )


class _Block(nn.Module):
    """Basic residual block (He et al. 2016, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class TileCNN(ModelMixin, ConfigMixin):
    """Residual CNN on 4 x 4-folded pixels: tiles (B, 3, 256, 256) in [0, 1] -> (B, dim).

    Tiles are averaged down to `side` pixels (128: 1 mpp, where nuclei are still distinguishable).

    The embedding has two parts. The first `dim - layout` values describe what the tile is made
    of, from the last stage's mean and a narrow 4 x 4 map. The others describe where it lies, from
    a map at 1/16 of the side. Each value is standardised by running statistics, so that cosines
    are centred on 0. The layout is then scaled by `LAYOUT_SCALE`, so that cosines compare what
    tiles are made of and not how they happen to be cut.

    Args:
        dim: length of the embedding.
        layout: how many of its values hold the layout.
        side: side in pixels of the trunk's input; larger tiles are averaged down.
        widths: channels at 1/4, 1/8, 1/16 and 1/32 of the side.
        depths: residual blocks at each.
        map_channels: channels of both maps.
        grey: whether the network sees only luminance.
    """

    tile = 256
    scale: Tensor

    @register_to_config
    def __init__(
        self,
        dim: int = 384,
        layout: int = 128,
        side: int = 128,
        widths: tuple[int, ...] = (48, 96, 192, 320),
        depths: tuple[int, ...] = (1, 1, 1, 1),
        map_channels: int = 16,
        grey: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(4), _conv(48, widths[0]), nn.ReLU()]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if i:
                layers += [_conv(widths[i - 1], width, stride=2), nn.ReLU()]
            layers += [_Block(width) for _ in range(depth)]
        # Split after the stage at 1/16, from whose map the layout is computed.
        last = 2 + depths[-1]
        self.trunk, self.top = nn.Sequential(*layers[:-last]), nn.Sequential(*layers[-last:])
        self.coarse = nn.Conv2d(widths[-1], map_channels, 1)
        self.project = nn.Linear(widths[-1] + 16 * map_channels, dim - layout)
        self.standardise = nn.BatchNorm1d(dim, affine=False, momentum=0.01)
        scale = torch.ones(dim)
        if layout:
            self.fine = nn.Conv2d(widths[-2], map_channels, 1)
            self.place = nn.Linear(64 * map_channels, layout)
            scale[-layout:] = LAYOUT_SCALE
        self.register_buffer("scale", scale, persistent=False)
        self.side, self.layout, self.grey = side, layout, grey

    def forward(self, tiles: Tensor) -> Tensor:
        """Embed tiles (B, 3, S, S), sRGB in [0, 1], S a multiple of `side`: (B, dim)."""
        if tiles.shape[-1] != self.side:
            tiles = F.avg_pool2d(tiles, tiles.shape[-1] // self.side)
        if self.grey:
            weights = tiles.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            tiles = (tiles * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        x = self.trunk(tiles * 4 - 3)  # H&E is bright: this puts tissue near zero mean
        top = self.top(x)
        coarse = F.adaptive_avg_pool2d(self.coarse(top), 4).flatten(1)
        parts = [self.project(torch.cat([top.mean((2, 3)), coarse], 1))]
        if self.layout:
            parts.append(self.place(F.adaptive_avg_pool2d(self.fine(x), 8).flatten(1)))
        return self._standardised(torch.cat(parts, 1).float()) * self.scale

    def _standardised(self, x: Tensor) -> Tensor:
        """Standardise (B, dim) float32, even if the statistics are in half precision."""
        norm = self.standardise
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        if norm.training or mean.dtype == x.dtype:
            return norm(x)
        return (x - mean.float()) / (variance.float() + norm.eps).sqrt()
