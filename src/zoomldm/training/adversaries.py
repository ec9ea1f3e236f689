"""Adversaries of a decoder, and what they are shown: details, and a public network's maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

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

    The means of 4 x 4 px are not the decoder's choice; at half the side details are averaged.

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
            shown = F.avg_pool2d(details, 2) if number else details
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
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 3, 1, 1)))


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


class MapScales(nn.Module):
    """Maps of real images: each channel's mean and deviation, and how far pictures differ.

    Args:
        channels: of each map.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.count = len(channels)
        for i, n in enumerate(channels):
            self.register_buffer(f"mean{i}", torch.zeros(n))
            self.register_buffer(f"deviation{i}", torch.ones(n))
            self.register_buffer(f"spread{i}", torch.ones(2))

    @torch.no_grad()
    def fit(self, maps: Sequence[Tensor]) -> None:
        """From maps (n, C, h, w) of real images, n of 2 or more."""
        for i, x in enumerate(maps):
            x = x.float()
            deviation, mean = torch.std_mean(x, (0, 2, 3))
            self._of("mean", i).copy_(mean)
            self._of("deviation", i).copy_(deviation.clamp(min=0.02 * float(deviation.max())))
            per = _statistics(x)
            self._of("spread", i).copy_(torch.stack([p.var(0).sum() for p in per]) + 1e-6)

    def _of(self, name: str, index: int) -> Tensor:
        return self.get_buffer(f"{name}{index}")

    def scaled(self, maps: Sequence[Tensor], first: int = 0) -> list[Tensor]:
        """Maps, from number `first` on, with each channel of mean 0 and deviation 1."""
        found = []
        for i, x in enumerate(maps, first):
            mean, deviation = (
                self._of(k, i).to(x).view(1, -1, 1, 1) for k in ("mean", "deviation")
            )
            found.append((x - mean) / deviation)
        return found

    def statistics_loss(self, made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
        """How far each picture's means and deviations of maps are from its real counterpart's.

        In units of how real pictures differ from each other: what distances of sets of pictures
        (Heusel et al. 2017) and the search for a picture's source go by. Where every place has to
        agree, the mean of what is possible wins, which is too smooth; statistics over a picture
        only agree where there is as much texture.

        Returns:
            (B,) 0 for equal ones.
        """
        total = torch.zeros(len(made[0]), device=made[0].device)
        for i, (a, b) in enumerate(zip(made, real, strict=True)):
            spread = self._of("spread", i)
            for k, (p, q) in enumerate(zip(_statistics(a), _statistics(b), strict=True)):
                total = total + (p - q).square().sum(1) / spread[k]
        return total / (2 * len(made))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.float().flatten(2)
    mean = x.mean(2)
    deviation = ((x - mean[:, :, None]).square().mean(2) + 1e-4).sqrt()
    return mean, deviation


def map_loss(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Squared difference of maps, every place of unit length over channels: (B,)."""
    parts = [
        (_unit(a.float()) - _unit(b.float())).square().sum(1).mean((1, 2))
        for a, b in zip(made, real, strict=True)
    ]
    return torch.stack(parts).mean(0)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


class LossBalance:
    """Weights of losses by what they ask of an image, not by the units they come in.

    Each loss is divided by a moving average of the norm of its gradient with respect to the image
    (after Defossez et al. 2022, section 3.4), so that weights are shares of the whole push.

    Args:
        weights: share of each loss by name.
        keep: of the average at each measurement.
    """

    def __init__(self, weights: dict[str, float], keep: float = 0.9) -> None:
        self.weights, self.keep = weights, keep
        self.norms: dict[str, float] = {}

    def measure(self, losses: dict[str, Tensor], image: Tensor) -> None:
        """Take the losses' gradients in, before `total`; the graph is kept."""
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, image, retain_graph=True)
            norm = float(gradient.float().norm())
            if norm > 0 and norm < float("inf"):
                known = self.norms.get(name, norm)
                self.norms[name] = self.keep * known + (1 - self.keep) * norm

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of those that were measured."""
        parts = [
            self.weights[name] / self.norms[name] * loss
            for name, loss in losses.items()
            if name in self.norms
        ]
        return torch.stack(parts).sum()
