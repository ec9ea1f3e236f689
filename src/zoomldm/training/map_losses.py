"""Distances of images in a public network's maps: position by position, or in their statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def map_loss(decoded: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Squared difference of maps, each position of unit length over channels: (B,)."""
    parts = [
        (_unit(a.float()) - _unit(b.float())).square().sum(1).mean((1, 2))
        for a, b in zip(decoded, real, strict=True)
    ]
    return torch.stack(parts).mean(0)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


class MapScales(nn.Module):
    """Maps of real images: each channel's mean and std, and how far images differ.

    Args:
        channels: number of channels of each map.
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
        """Set the scales from maps (n, C, h, w) of real images, n of 2 or more.

        Raises:
            ValueError: a map is constant, as when weights are missing.
        """
        for i, x in enumerate(maps):
            x = x.float()
            deviation, mean = torch.std_mean(x, (0, 2, 3))
            if not float(deviation.max()) > 0:
                raise ValueError(
                    f"map {i} of {len(maps)} is the same for all images; expected a network with "
                    "all of its weights"
                )
            self._of("mean", i).copy_(mean)
            self._of("deviation", i).copy_(
                deviation.clamp(min=0.02 * float(deviation.max()) + 1e-6)
            )
            per = _statistics(x)
            self._of("spread", i).copy_(torch.stack([p.var(0).sum() for p in per]) + 1e-6)

    def _of(self, name: str, index: int) -> Tensor:
        return self.get_buffer(f"{name}{index}")

    def scaled(self, maps: Sequence[Tensor], first: int = 0) -> list[Tensor]:
        """Maps, from number `first` on, each channel with mean 0 and std 1."""
        found = []
        for i, x in enumerate(maps, first):
            mean, deviation = (
                self._of(k, i).to(x).view(1, -1, 1, 1) for k in ("mean", "deviation")
            )
            found.append((x - mean) / deviation)
        return found

    def statistics_loss(self, decoded: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
        """Distance of each image's means and stds of maps from its real counterpart's.

        In units of how real images differ from each other, the statistics that distances between
        sets of images (Heusel et al. 2017) and the search for an image's source rely on. If every
        position has to agree, the mean of the possible images wins, which is too smooth;
        statistics over an image only agree if it has as much texture.

        Returns:
            (B,) 0 for equal images.
        """
        total = torch.zeros(len(decoded[0]), device=decoded[0].device)
        for i, (a, b) in enumerate(zip(decoded, real, strict=True)):
            spread = self._of("spread", i)
            for k, (p, q) in enumerate(zip(_statistics(a), _statistics(b), strict=True)):
                total = total + (p - q).square().sum(1) / spread[k]
        return total / (2 * len(decoded))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.float().flatten(2)
    mean = x.mean(2)
    deviation = ((x - mean[:, :, None]).square().mean(2) + 1e-4).sqrt()
    return mean, deviation
