"""Discriminators of a decoder's images, and what they are shown: details, and a network's maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

GAIN = 8.0  # details of tissue have a deviation of about a tenth
LOW = 4  # px a side of what one value of the low image stands for


def detail(image: Tensor) -> Tensor:
    """What an image (B, 3, H, W), sides multiples of 4, has beyond the means of its 4 x 4 px."""
    return image - F.interpolate(F.avg_pool2d(image, LOW), scale_factor=LOW, mode="nearest")


def moved(image: Tensor, low: Tensor) -> Tensor:
    """A real image whose low image is another: the best that a decoder can make of that.

    The difference is added smoothly, so that there are no steps between the 4 x 4 px. An adversary
    that saw the real image itself would tell it by a low image that is not the decoder's choice.

    Args:
        image: (B, 3, H, W), sides multiples of 4.
        low: (B, 3, H / 4, W / 4).
    """
    change = low - F.avg_pool2d(image, LOW)
    return image + F.interpolate(change, scale_factor=LOW, mode="bicubic", align_corners=False)


def hinge(fake: Tensor, real: Tensor) -> Tensor:
    """Loss of a discriminator (Lim and Ye 2017) by its logits."""
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
        """Logits at 1/8 of the side for each scale, high for real ones.

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
        channels: of each map.
        strides: pixels that a place of each map stands for, 4 or more.
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
        """Logits of each map, high for real ones.

        Args:
            maps: (B, C, H / stride, W / stride), each channel of about unit deviation.
            low: (B, 3, H / 4, W / 4).
        """
        out = []
        for i, stride in enumerate(self.strides):
            around = self.beside[i](F.pixel_unshuffle(low, stride // LOW))
            out.append(self.heads[i](self.enter[i](maps[i]) + around))
        return out
