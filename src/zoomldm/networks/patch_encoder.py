"""The demo patch encoder: a tile of 256 px to one embedding of 384 numbers."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


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

    Tiles are looked at with `side` pixels (128: 1 mpp, where nuclei can still be told apart).

    What the last stage holds is kept in two forms, its mean (what the tile is made of) and a
    narrow 4 x 4 map (roughly where), and projected together. The embedding is standardised per
    dimension by running statistics, so that cosines are centred on 0.

    Args:
        dim: length of the embedding.
        side: pixels a side that the trunk sees; larger tiles are averaged down.
        widths: channels at 1/4, 1/8, 1/16 and 1/32 of the side.
        depths: residual blocks at each.
        map_channels: channels of the 4 x 4 map.
        grey: whether the network sees luminance only.
    """

    tile = 256

    @register_to_config
    def __init__(
        self,
        dim: int = 384,
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
        self.trunk = nn.Sequential(*layers)
        self.where = nn.Conv2d(widths[-1], map_channels, 1)
        self.project = nn.Linear(widths[-1] + 16 * map_channels, dim)
        self.standardise = nn.BatchNorm1d(dim, affine=False, momentum=0.01)
        self.side, self.grey = side, grey

    def forward(self, tiles: Tensor) -> Tensor:
        """Embed tiles (B, 3, S, S), sRGB in [0, 1], S a multiple of `side`: (B, dim)."""
        if tiles.shape[-1] != self.side:
            tiles = F.avg_pool2d(tiles, tiles.shape[-1] // self.side)
        if self.grey:
            weights = tiles.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            tiles = (tiles * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        x = self.trunk(tiles * 4 - 3)  # H&E is bright: this puts tissue near zero mean
        where = F.adaptive_avg_pool2d(self.where(x), 4).flatten(1)
        return self.standardise(self.project(torch.cat([x.mean((2, 3)), where], 1)).float())
