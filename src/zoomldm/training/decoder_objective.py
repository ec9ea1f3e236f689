"""Objective of the low-pass decoder: pixels, a public network's maps, and adversaries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from zoomldm.networks.lowpass import CELL
from zoomldm.training.adversaries import (
    LOW,
    DetailDiscriminator,
    FeatureDiscriminator,
    detail,
    hinge,
    moved,
)
from zoomldm.training.map_losses import MapScales, map_loss

Features = Callable[[Tensor], list[Tensor]]
"""Images (B, 3, H, W) in [-1, 1] to maps at 1/2, 1/4, 1/8, 1/16, 1/32 and any further ones."""

LOSSES: tuple[str, ...] = ("pixels", "maps", "statistics", "details", "features")
ADVERSARIES: tuple[str, ...] = ("details", "features")
PLACES = 4  # maps that are compared position by position, down to 1/16 of the side
STRIDES = (4, 8, 16, 32)  # of the maps that a discriminator sees: all but the first
RESTORED_BLOCK = 16  # px; where latents are restored, means of such blocks are not judged
KEEP = 0.9  # decay of the moving averages at each measurement


def phase_loss(error: Tensor, side: int = CELL) -> Tensor:
    """Mean square, over the positions in a cell, of the mean error: zero without a chequerboard.

    Args:
        error: (B, 3, H, W).
        side: side of a cell.
    """
    fine = error - F.avg_pool2d(error, 3, 1, 1)
    b, c, h, w = fine.shape
    fine = fine[..., : h // side * side, : w // side * side]
    cells = fine.reshape(b, c, h // side, side, w // side, side).mean((2, 4))
    return cells.square().mean()


class LossBalance(nn.Module):
    """Weights losses by their gradients at the image, whatever units the losses are in.

    Each loss is divided by a moving average of the norm of its gradient with respect to the image
    (after Defossez et al. 2022, section 3.4), so that weights are relative parts of the gradient.

    Args:
        names: names of the losses.
    """

    norms: Tensor

    def __init__(self, names: Sequence[str] = LOSSES) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("norms", torch.zeros(len(self.names)))

    def measure(self, losses: dict[str, Tensor], image: Tensor) -> None:
        """Update the averages from the losses' gradients; the graph is retained."""
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, image, retain_graph=True)
            norm, i = gradient.float().norm(), self.names.index(name)
            known = self.norms[i]
            average = torch.where(known > 0, known.lerp(norm, 1 - KEEP), norm)
            self.norms[i] = torch.where(torch.isfinite(norm), average, known)

    def total(self, losses: dict[str, Tensor], weights: dict[str, float | Tensor]) -> Tensor:
        """Sum the losses, each times weight / norm; losses not yet measured are left out.

        Args:
            losses: by name.
            weights: weights of the losses, by name.
        """
        known = self.norms > 0
        factors = torch.where(known, 1 / self.norms.where(known, 1), 0)
        parts = [
            weights[name] * factors[self.names.index(name)] * loss for name, loss in losses.items()
        ]
        return torch.stack(parts).sum()


class DecoderAdversary(ModelMixin, ConfigMixin):
    """Discriminators of details and of maps, with the scales in which losses are measured.

    Args:
        channels: channels of each map of the features; empty without features.
        width: channels of the detail discriminator at half of the side.
    """

    seen: Tensor  # number of batches it was trained on
    told: Tensor  # moving average of each discriminator's hinge loss; 2 if it can't tell at all

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (), width: int = 48) -> None:
        super().__init__()
        self.details = DetailDiscriminator(width)
        shown = channels[1 : 1 + len(STRIDES)]
        self.features = FeatureDiscriminator(shown, STRIDES[: len(shown)]) if shown else None
        self.scales = MapScales(channels)
        self.balance = LossBalance()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("told", torch.full((len(ADVERSARIES),), 2.0))

    def forward(
        self,
        image: Tensor,
        maps: Sequence[Tensor],
        low: Tensor,
        restored: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """Logits of each discriminator, high for real images.

        Args:
            image: (B, 3, H, W) signed, sides multiples of 32.
            maps: maps of the image; empty without features.
            low: (B, 3, H / 4, W / 4).
            restored: (B,) whether the means of 4 x 4 px are the decoder's choice; those of 16 x 16
                px are still left out.
        """
        shown = detail(image)
        if restored is not None:  # details of larger blocks have more contrast
            wide = detail(image, RESTORED_BLOCK) * (LOW / RESTORED_BLOCK) ** 0.5
            shown = torch.where(restored.view(-1, 1, 1, 1), wide, shown)
        found = {"details": self.details(shown, low)}
        if self.features is not None:
            scaled = self.scales.scaled(maps[1 : 1 + len(self.features.strides)], 1)
            found["features"] = self.features(scaled, low)
        return {k: [x.float() for x in v] for k, v in found.items()}


@dataclass(frozen=True)
class Push:
    """The loss of a step.

    Attributes:
        loss: of decoder and discriminators; each gets gradients of its own part alone.
        parts: every loss by name.
    """

    loss: Tensor
    parts: dict[str, Tensor]


class DecoderObjective:
    """Loss of decoded images and of the discriminators that judge them.

    Images are compared with the real ones adjusted to the decoded low image; statistics with
    the real ones themselves, so that details compensate for what a denoiser's low image lacks.
    Images whose low image the decoder has restored are compared with the real ones alone.

    Args:
        adversary: discriminators and scales.
        features: see `Features`; None to compare pixels and details alone.
        weights: relative parts of the losses in the gradient, by name in `LOSSES`.
    """

    def __init__(
        self, adversary: DecoderAdversary, features: Features | None, weights: dict[str, float]
    ) -> None:
        self.adversary, self.features, self.weights = adversary, features, weights

    @torch.no_grad()
    def fit(self, images: Tensor, size: int = 32) -> None:
        """Set the scales of maps from real images (n, 3, H, W), n of 2 or more."""
        if self.features is not None:
            parts = [self.features(part) for part in images.split(size)]
            self.adversary.scales.fit([torch.cat(x) for x in zip(*parts, strict=True)])

    def __call__(
        self,
        decoded: Tensor,
        real: Tensor,
        low: Tensor,
        agree: Tensor,
        rise: float = 1.0,
        measure: bool = True,
        restored: Tensor | None = None,
    ) -> Push:
        """Compare decoded images with real ones.

        Args:
            decoded: (B, 3, H, W) signed; sides are multiples of 32 if there are features.
            real: real images of the same places.
            low: (B, 3, H / 4, W / 4) signed, what was decoded.
            agree: (B,) 0 to 1, how far pixels and positions can agree: little if the low image is
                a denoiser's guess; 0 if it is of another place. In that case the adversaries see
                the real image as it is, since its details don't lie where the low image has them.
            rise: factor on the weights of the adversaries' losses, 0 to 1.
            measure: whether to measure the losses' gradients, which takes a few backward passes.
            restored: (B,) whether the decoder restored the low image, so that its means are its
                own choice; None if it did nowhere.
        """
        with torch.no_grad():
            apart = (agree == 0).view(-1, 1, 1, 1)
            free = apart if restored is None else apart | restored.view(-1, 1, 1, 1)
            target = torch.where(free, real, moved(real, low))
            own = torch.where(apart, F.avg_pool2d(real, real.shape[-1] // low.shape[-1]), low)
            wanted, like = self._maps_of(target, real)
        shown = self.features(decoded) if self.features is not None else []
        rivals = any(self.weights[name] for name in ADVERSARIES)
        lows = torch.cat([low, own])
        hinges = self._hinges(decoded, shown, target, wanted, lows, restored) if rivals else {}
        error = detail(decoded) - detail(target)
        whole = error if restored is None else torch.where(free, decoded - target, error)
        pixels = (agree.view(-1, 1, 1, 1) * whole.abs()).mean()
        parts = {"pixels": pixels + 20 * phase_loss(error)}
        if shown:
            parts["maps"] = (agree * map_loss(shown[:PLACES], wanted[:PLACES])).mean()
            parts["statistics"] = self.adversary.scales.statistics_loss(shown, like).mean()
        if rivals and rise:
            parts |= self._fooled(decoded, shown, low, restored)
        if measure:
            self.adversary.balance.measure(parts, decoded)
        weights: dict[str, float | Tensor] = dict(self.weights)
        for i, name in enumerate(ADVERSARIES):
            # A discriminator that can't tell images apart contributes only noise.
            weights[name] = self.weights[name] * rise * (2 - self.adversary.told[i]).clamp(0, 1)
        loss = self.adversary.balance.total(parts, weights)
        for value in hinges.values():
            loss = loss + value
        named = {f"hinge_{k}": v for k, v in hinges.items()}
        return Push(loss, {k: v.detach() for k, v in (parts | named).items()})

    def _maps_of(self, target: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if self.features is None:
            return [], []
        both = self.features(torch.cat([target, real]))
        return [x[: len(real)] for x in both], [x[len(real) :] for x in both]

    def _hinges(
        self,
        decoded: Tensor,
        shown: list[Tensor],
        target: Tensor,
        wanted: list[Tensor],
        lows: Tensor,
        restored: Tensor | None,
    ) -> dict[str, Tensor]:
        both = None if restored is None else torch.cat([restored, restored])
        maps = [torch.cat([a.detach(), b]) for a, b in zip(shown, wanted, strict=True)]
        logits = self.adversary(torch.cat([decoded.detach(), target]), maps, lows, both)
        found = {k: torch.stack([hinge(*x.chunk(2)) for x in v]).mean() for k, v in logits.items()}
        if self.adversary.training:
            for i, name in enumerate(ADVERSARIES):
                if name in found:
                    self.adversary.told[i].lerp_(found[name].detach().nan_to_num(2.0), 0.02)
        return found

    def _fooled(
        self, decoded: Tensor, shown: list[Tensor], low: Tensor, restored: Tensor | None
    ) -> dict[str, Tensor]:
        frozen = {k: v.detach() for k, v in self.adversary.named_parameters()}
        frozen |= dict(self.adversary.named_buffers())
        logits = functional_call(self.adversary, frozen, (decoded, shown, low, restored))
        return {k: -torch.stack([x.mean() for x in v]).mean() for k, v in logits.items()}
