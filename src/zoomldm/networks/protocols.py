"""Interfaces of a pipeline's networks: a class with one of these can replace a component.

Each is a `torch.nn.Module` with diffusers' `config`, so that it is saved, moved and digested like
the others. Shapes: B items, C channels of latents of side h by w, embedding dimension D.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Component(Protocol):
    """What every network provides."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings, from which it can be rebuilt."""
        ...


@runtime_checkable
class DenoiserLike(Component, Protocol):
    """Predicts the quantity named by the scheduler's prediction type.

    Further inputs (a level, a parent, its noise) depend on the kind of denoiser; they have
    defaults.
    """

    def forward(self, latents: Tensor, time: Tensor, context: Tensor, *more: Any) -> Tensor:
        """Noisy latents (B, C, h, w), times (B,) 0..999, context (B, tokens, width)."""
        ...


@runtime_checkable
class AutoencoderLike(Component, Protocol):
    """Images to latents and back; `config` holds `latent_channels`, its C."""

    @property
    def factor(self) -> int:
        """Side of an image divided by that of its latents."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H / factor, W / factor)."""
        ...

    def decode(self, latents: Tensor, *more: Any) -> Tensor:
        """Latents to images, about [-1, 1], not clamped; a decoder may take noise and levels."""
        ...


@runtime_checkable
class SummarizerLike(Component, Protocol):
    """Grids of embeddings to contexts; `config` holds `dim`, its D, and may hold `levels`."""

    @property
    def context_shape(self) -> tuple[int, int]:
        """Number of tokens and their width."""
        ...

    def forward(self, grid: Tensor, level: Tensor, *more: Any) -> Tensor:
        """Raw embeddings (B, 2**k, 2**k, D) and levels (B,) to (B, tokens, width)."""
        ...


@runtime_checkable
class PatchEncoderLike(Component, Protocol):
    """Tiles to embeddings."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles (B, 3, 256, 256), sRGB in [0, 1], to embeddings (B, D)."""
        ...
