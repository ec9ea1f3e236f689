"""The project's own embedding diffusion network: a small diffusion transformer with conditions."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.errors import ConfigError
from zoomldm.networks.embedding_dit import TIME, positions, time_features
from zoomldm.networks.precision import full_precision
from zoomldm.networks.summarizers import SIDE, standardise
from zoomldm.networks.transformer import ModulatedBlock, modulated_norm

HALF = SIDE // 2
STEPS = 1000  # of the schedule
_LEAST = 1e-6  # least variance of an axis at a level, relative to the mean over its axes


def matching_quarter(context: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Tokens of a parent's context that cover one of its four children.

    Args:
        context: (B, 64, width), of the parents.
        row: (B,) of the child's position in its patch lattice; only its parity matters.
        col: (B,) likewise.

    Returns:
        (B, 16, width); token 4 i + j is cell (i, j) of the quarter.
    """
    cells = torch.arange(HALF, device=context.device)
    rows = row.to(cells.device)[:, None] % 2 * HALF + cells
    cols = col.to(cells.device)[:, None] % 2 * HALF + cells
    index = (rows[:, :, None] * SIDE + cols[:, None]).flatten(1)
    return context.gather(1, index[:, :, None].expand(-1, -1, context.shape[2]))


class _Neighbours(nn.Module):
    """Gives each token half of its channels from the four tokens around it, an eighth from each.

    Outside the context there are zeros. This turns the linear layer after it into a small
    convolution without extra weights (Yu et al. 2022, S2-MLP, section 3.2).
    """

    def forward(self, x: Tensor) -> Tensor:
        cells = x.unflatten(1, (SIDE, SIDE))
        part = x.shape[2] // 8
        own, above, below, left, right = cells.split([x.shape[2] - 4 * part, *(part,) * 4], 3)
        moved = (
            F.pad(above[:, :-1], (0, 0, 0, 0, 1, 0)),
            F.pad(below[:, 1:], (0, 0, 0, 0, 0, 1)),
            F.pad(left[:, :, :-1], (0, 0, 1, 0)),
            F.pad(right[:, :, 1:], (0, 0, 0, 1)),
        )
        return torch.cat([own, *moved], 3).flatten(1, 2)


class _Block(ModulatedBlock):
    """Transformer block under a modulation shared by all blocks, with offsets of its own.

    One layer computes shifts, scales and gates for every block (Chen et al. 2024, PixArt-alpha,
    section 2.3, "adaLN-single"), so that a small network can spend its weights on its tokens.
    Gates start at zero: the block starts as identity.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, neighbours: bool) -> None:
        super().__init__(width, heads, qk_norm)
        self.offsets = nn.Parameter(torch.zeros(6, width))
        if neighbours:
            self.mlp.insert(0, _Neighbours())

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.modulated(x, (modulation + self.offsets)[:, :, None].unbind(1))


class ContextDiT(ModelMixin, ConfigMixin):
    """Transformer that predicts clean standardised context tokens from noisy ones.

    Statistics stored with the weights convert to the network's units and back. Every condition
    but the timestep has a null: level `levels`, label `len(labels)`, a reference or a parent of
    zeros.

    Without `axes` each dimension is standardised over all levels, and the last layer's output is
    the clean context, of rank `width` at most.

    With `axes`, contexts are centred on their level's mean and projected on the directions in
    which contexts vary most (a summarizer's tokens have a lower rank than their length). Each
    projection is divided by the root of its std, so that directions that vary more are generated
    first. The prediction is the posterior mean under a Gaussian with the level's variances given
    the noisy context, corrected by the last layer in units of the remaining uncertainty (Karras
    et al. 2022, section 5, for each axis separately). At low noise, rank is then not limited. For
    a variance of one the prediction is alpha x + sigma F.

    Args:
        context_dim: length of a context token.
        reference_dim: D of the reference's embedding; 0 for a network without references.
        width: channels of the blocks.
        depth: number of blocks.
        heads: attention heads.
        levels: number of levels.
        labels: names of the labels that can condition the tissue; empty for a network without
            labels.
        axes: principal directions along which contexts are generated; 0 for their own dimensions.
        unpack: channels that each quarter of a parent's token is unpacked to for the token that
            it lies over; 0 gives all four the same.
        qk_norm: whether queries and keys are normalised (Henry et al. 2020).
        neighbours: whether the blocks' linear layers also see the four tokens around each.

    Raises:
        ConfigError: more axes than dimensions.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    directions: Tensor

    @register_to_config
    def __init__(
        self,
        context_dim: int = 512,
        reference_dim: int = 384,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        levels: int = 8,
        labels: Sequence[str] = (),
        axes: int = 0,
        unpack: int = 0,
        qk_norm: bool = False,
        neighbours: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= axes <= context_dim:
            raise ConfigError(f"{axes} axes; expected 0 to {context_dim}, a context's dimensions")
        tokens, held = SIDE**2, axes or context_dim
        if axes:
            self.register_buffer("mean", torch.zeros(levels, context_dim))
            self.register_buffer("deviation", torch.ones(levels + 1, axes))
            self.register_buffer("scale", torch.ones(context_dim))
            self.register_buffer("directions", torch.eye(context_dim, axes))
        else:
            self.register_buffer("mean", torch.zeros(context_dim))
            self.register_buffer("deviation", torch.ones(context_dim))
        self.project = nn.Linear(held, width)
        line = positions(SIDE, width // 2)
        place = torch.cat([line.repeat_interleave(SIDE, 0), line.repeat(SIDE, 1)], 1)
        self.position = nn.Parameter(place.reshape(1, tokens, width))
        self.time = nn.Sequential(nn.Linear(TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.level = nn.Embedding(levels + 1, width)
        self.reference = nn.Linear(reference_dim, width) if reference_dim else None
        self.label = nn.Embedding(len(labels) + 1, width) if labels else None
        self.parent = nn.Linear(held, 4 * unpack if unpack else width)
        self.unpacked = nn.Linear(unpack, width) if unpack else None
        self.no_reference = nn.Parameter(torch.zeros(width))
        self.no_parent = nn.Parameter(torch.zeros(width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(_Block(width, heads, qk_norm, neighbours) for _ in range(depth))
        self.last = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, held)
        for layer in (self.modulation, self.last, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.level.weight, std=0.02)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    @property
    def context_shape(self) -> tuple[int, int]:
        """Number of tokens and their length."""
        return SIDE**2, int(self.config["context_dim"])

    @property
    def labels(self) -> list[str]:
        """Names of the labels that can condition the tissue."""
        return list(self.config["labels"])

    @property
    def axes(self) -> int:
        """Directions along which contexts are generated; 0 for their own dimensions."""
        return int(self.config["axes"])

    @torch.no_grad()
    def set_axes(self, means: Tensor, covariances: Tensor) -> None:
        """Set the statistics of a network with axes.

        Args:
            means: (levels, context_dim), of each level's tokens.
            covariances: (levels, context_dim, context_dim), about the level's mean; zeros mark a
                level without contexts, which gets the mean statistics of the others.
        """
        known = covariances.diagonal(dim1=1, dim2=2).sum(1) > 0
        means, own = means.double(), covariances.double()
        means = torch.where(known[:, None], means, means[known].mean(0))
        own = torch.where(known[:, None, None], own, own[known].mean(0))
        scale = own.diagonal(dim1=1, dim2=2).mean(0).sqrt().clamp(min=1e-4)
        own = own / torch.outer(scale, scale)
        directions = torch.linalg.eigh(own.mean(0)).eigenvectors.flip(1)[:, : self.axes]
        variance = torch.einsum("ca,kcd,da->ka", directions, own, directions)
        variance = torch.cat([variance, variance.mean(0, keepdim=True)])
        least = _LEAST * variance.mean(1, keepdim=True)
        self.mean.copy_(means)
        self.scale.copy_(scale)
        self.directions.copy_(directions)
        self.deviation.copy_(variance.maximum(least).sqrt())

    def standardised(self, contexts: Tensor, level: Tensor | int | None = None) -> Tensor:
        """Contexts (..., context_dim) in the network's units.

        Args:
            contexts: (B, n, context_dim) in the summarizer's units.
            level: (B,), or one level for all; required with `axes`. Such a network's contexts have
                zeros in the dimensions beyond the axes.
        """
        if not self.axes:
            return (contexts.float() - self.mean) / self.deviation
        assert level is not None
        with full_precision(contexts.device):
            x = (contexts.float() - _row(self.mean, level)) / self.scale.float()
            x = x @ self.directions.float() / _row(self._units()[0], level)
        return F.pad(x, (0, contexts.shape[-1] - self.axes))

    def restored(self, contexts: Tensor, level: Tensor | int | None = None) -> Tensor:
        """Contexts back in the summarizer's units; undoes `standardised`."""
        if not self.axes:
            return contexts * self.deviation + self.mean
        assert level is not None
        with full_precision(contexts.device):
            x = contexts[..., : self.axes].float() * _row(self._units()[0], level)
            return (x @ self.directions.float().T) * self.scale.float() + _row(self.mean, level)

    def _units(self) -> tuple[Tensor, Tensor]:
        """For each level and axis: the divisor of contexts, and the variance after dividing.

        The variances of a level have a mean of one.
        """
        deviation = self.deviation.float()
        size = deviation.mean(1, keepdim=True)
        return (deviation * size).sqrt(), deviation / size

    def error_scale(self, time: Tensor) -> Tensor:
        """Weight of the squared error of a clean context (B, 64, context_dim) in training.

        Without axes it is 1. With them it is that of v, one over the noise's variance, times
        `context_dim` / `axes`, since only the axes' dimensions have an error.

        Args:
            time: (B,) timesteps, 0..999.

        Returns:
            (B,) float32.
        """
        if not self.axes:
            return torch.ones(len(time), device=time.device)
        return int(self.config["context_dim"]) / self.axes / (1 - signal(time))

    def forward(
        self,
        contexts: Tensor,
        time: Tensor,
        level: Tensor,
        reference: Tensor | None = None,
        parent: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean context.

        Args:
            contexts: (B, 64, context_dim), standardised and noisy.
            time: (B,) timesteps, 0..999.
            level: (B,) level of each; `levels` is the null.
            reference: (B, D) raw embedding of a tile that the tissue should resemble; zeros are
                the null, and so is None.
            parent: (B, 16, context_dim), the result of `matching_quarter` on the parent's context,
                in the summarizer's units; zeros are the null, and so is None.
            label: (B,) index in `labels`; `len(labels)` is the null, and so is None.

        Returns:
            (B, 64, context_dim), standardised.
        """
        if self.axes:
            variance = self._units()[1][level][:, None]
            alpha_bar = signal(time)[:, None, None]
            total = alpha_bar * variance + 1 - alpha_bar
            noisy = contexts[..., : self.axes]
            predicted = self._predicted(
                noisy * total.rsqrt().to(noisy.dtype), time, level, reference, parent, label
            )
            clean = (alpha_bar.sqrt() * variance / total).to(noisy.dtype) * noisy
            clean = clean + ((1 - alpha_bar) * variance / total).sqrt().to(noisy.dtype) * predicted
            return F.pad(clean, (0, contexts.shape[-1] - self.axes))
        return self._predicted(contexts, time, level, reference, parent, label)

    def _predicted(
        self,
        contexts: Tensor,
        time: Tensor,
        level: Tensor,
        reference: Tensor | None,
        parent: Tensor | None,
        label: Tensor | None,
    ) -> Tensor:
        """Output of the last layer, (B, 64, axes or context_dim)."""
        x = self.project(contexts) + self.position + self._parent(parent, level)
        condition = self.time(time_features(time).to(x.dtype)) + self.level(level)
        condition = F.silu(condition + self._reference(reference) + self._label(label))
        modulation = self.modulation(condition).unflatten(1, (6, -1))
        for block in self.blocks:
            x = block(x, modulation)
        shift, scale = self.last(condition)[:, None].chunk(2, 2)
        return self.out(modulated_norm(x, shift, scale))

    def _reference(self, reference: Tensor | None) -> Tensor:
        if reference is None or self.reference is None:
            return self.no_reference
        given = (reference != 0).any(-1, keepdim=True)
        return torch.where(
            given,
            self.reference(standardise(reference).to(self.reference.weight.dtype)),
            self.no_reference,
        )

    def _label(self, label: Tensor | None) -> Tensor | float:
        if self.label is None:
            return 0.0
        return self.label.weight[-1] if label is None else self.label(label)

    def _parent(self, parent: Tensor | None, level: Tensor) -> Tensor:
        if parent is None:
            return self.no_parent
        given = (parent != 0).flatten(1).any(1)[:, None, None]
        if self.axes:
            above = (level + 1).clamp(max=len(self.mean) - 1)
            x = self.standardised(parent, above)[..., : self.axes]
            x = x * self._units()[1][above][:, None].rsqrt()
        else:
            x = self.standardised(parent)
        code = self.parent(x.to(self.parent.weight.dtype)).unflatten(1, (HALF, HALF))
        if self.unpacked is not None:
            code = F.pixel_shuffle(code.movedim(3, 1), 2).movedim(1, 3)
            code = self.unpacked(code).flatten(1, 2)
        else:
            code = code.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
        return torch.where(given, code, self.no_parent)


def _row(values: Tensor, level: Tensor | int) -> Tensor:
    """Row of each item's level, float32, broadcastable over its tokens."""
    found = values[level].float()
    return found[:, None] if found.ndim == 2 else found


def signal(time: Tensor) -> Tensor:
    """Fraction of a noisy context's variance that is the context's own, (B,) float32.

    Follows the squared-cosine schedule (`zoomldm.diffusion.learned_range.cosine_betas`), whose
    last beta is capped at 0.999.

    Args:
        time: (B,) timesteps, 0..999.
    """
    last = STEPS - 1

    def left(step: Tensor | float) -> Tensor:
        angle = (torch.as_tensor(step) / STEPS + 0.008) / 1.008 * torch.pi / 2
        return angle.cos().square()

    after = (time.float() + 1).clamp(max=last)
    alpha_bar = left(after) / left(0.0)
    return torch.where(time < last, alpha_bar, 0.001 * alpha_bar)
