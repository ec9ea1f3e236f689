"""Discriminators of a decoder's images, and their inputs: details, and a network's maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

GAIN = 8.0  # details of tissue have a standard deviation of about a tenth
LOW = 4  # side in px of what one value of the low image covers


def detail(image: Tensor, block: int = LOW) -> Tensor:
    """An image (B, 3, H, W) without the means of its square blocks.

    Args:
        image: sides are multiples of `block`.
        block: their side in px.
    """
    return image - F.interpolate(F.avg_pool2d(image, block), scale_factor=block, mode="nearest")


def moved(image: Tensor, low: Tensor) -> Tensor:
    """A real image adjusted to another low image: the best that a decoder can make of that one.

    The difference is added smoothly, without steps between the 4 x 4 px blocks. An adversary that
    saw the real image itself would recognise it by its low image, which the decoder can't choose.

    Args:
        image: (B, 3, H, W), sides multiples of 4.
        low: (B, 3, H / 4, W / 4).
    """
    change = low - F.avg_pool2d(image, LOW)
    return image + F.interpolate(change, scale_factor=LOW, mode="bicubic", align_corners=False)


def hinge(fake: Tensor, real: Tensor) -> Tensor:
    """Hinge loss of a discriminator (Lim and Ye 2017) from its logits."""
    return F.relu(1 + fake).mean() + F.relu(1 - real).mean()


class DetailDiscriminator(nn.Module):
    """Patch discriminators of details beside the low image, at the full and at half the side.

    The means of 4 x 4 px are not the decoder's choice; at half the side details are averaged. The
    last layer has no norm: with one on every layer, logits take hundreds of steps to leave zero.

    Args:
        width: channels at half the side.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_patches(6, width, depth) for depth in (3, 2))

    def forward(self, details: Tensor, low: Tensor) -> list[Tensor]:
        """Logits at 1/8 of the side for each scale, high for real images.

        Args:
            details: (B, 3, H, W), sides multiples of 8.
            low: (B, 3, H / 4, W / 4).
        """
        out = []
        for number, layers in enumerate(self.scales):
            shown = GAIN * (F.avg_pool2d(details, 2) if number else details)
            around = F.interpolate(low, shown.shape[-2:], mode="bilinear", align_corners=False)
            out.append(layers(torch.cat([shown, around], 1)))
        return out


def _patches(channels: int, width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in range(depth):
        wide = width * 2**step
        layers += [spectral_norm(nn.Conv2d(channels, wide, 4, 2, 1)), nn.LeakyReLU(0.2)]
        channels = wide
    layers += [spectral_norm(nn.Conv2d(channels, channels, 3, 1, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, 1, 1))


class FeatureDiscriminator(nn.Module):
    """Heads on maps of a frozen network, beside the low image (after Sauer et al. 2021).

    Args:
        channels: channels of each map.
        strides: side in pixels that a position of each map covers, 4 or more.
        width: channels of a head.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.enter, self.beside, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for n, stride in zip(channels, strides, strict=True):
            self.enter.append(spectral_norm(nn.Conv2d(n, width, 1)))
            self.beside.append(spectral_norm(nn.Conv2d(3 * (stride // LOW) ** 2, width, 1)))
            self.heads.append(
                nn.Sequential(
                    nn.LeakyReLU(0.2),
                    spectral_norm(nn.Conv2d(width, width, 3, 1, 1)),
                    nn.LeakyReLU(0.2),
                    spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)),
                )
            )

    def forward(self, maps: Sequence[Tensor], low: Tensor) -> list[Tensor]:
        """Logits of each map, high for real images.

        Args:
            maps: (B, C, H / stride, W / stride), each channel with about unit std.
            low: (B, 3, H / 4, W / 4).
        """
        out = []
        for i, stride in enumerate(self.strides):
            around = self.beside[i](F.pixel_unshuffle(low, stride // LOW))
            out.append(self.heads[i](self.enter[i](maps[i]) + around))
        return out
