"""Our embedding diffusion's network: a small diffusion transformer with optional conditions."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from zoomldm.networks.embedding_dit import TIME, positions, time_features
from zoomldm.networks.summarizers import SIDE, standardise
from zoomldm.networks.transformer import ModulatedBlock, modulated_norm

HALF = SIDE // 2


def matching_quarter(context: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Tokens of a parent's context that cover one of its four children.

    Args:
        context: (B, 64, width), the parents'.
        row: (B,) of the child's place in its patch lattice; its parity counts.
        col: (B,) likewise.

    Returns:
        (B, 16, width); token 4 i + j is cell (i, j) of the quarter.
    """
    cells = torch.arange(HALF, device=context.device)
    rows = row.to(cells.device)[:, None] % 2 * HALF + cells
    cols = col.to(cells.device)[:, None] % 2 * HALF + cells
    index = (rows[:, :, None] * SIDE + cols[:, None]).flatten(1)
    return context.gather(1, index[:, :, None].expand(-1, -1, context.shape[2]))


class _Block(ModulatedBlock):
    """Transformer block under a modulation that all blocks share, with offsets of its own.

    One layer makes shifts, scales and gates for every block (Chen et al. 2024, PixArt-alpha,
    section 2.3, "adaLN-single"), which leaves a small network's weights to its tokens. Gates
    start at zero: the block starts as identity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.offsets = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.modulated(x, (modulation + self.offsets)[:, :, None].unbind(1))


class ContextDiT(ModelMixin, ConfigMixin):
    """Transformer that predicts clean standardised context tokens from noised ones.

    It works on contexts of zero mean and unit std per dimension; `mean` and `deviation`,
    buffers that travel with the weights, lead there and back. Every condition but the timestep
    has a null: level `levels`, label `len(labels)`, a reference or a parent of zeros.

    Args:
        context_dim: length of a context token.
        reference_dim: D of the reference's embedding; 0 for a network that takes none.
        width: channels of the blocks.
        depth: number of blocks.
        heads: attention heads.
        levels: number of levels.
        labels: names of the labels that tissue may be asked for by; none for a network that knows
            of none.
    """

    mean: Tensor
    deviation: Tensor

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
    ) -> None:
        super().__init__()
        tokens = SIDE**2
        self.register_buffer("mean", torch.zeros(context_dim))
        self.register_buffer("deviation", torch.ones(context_dim))
        self.project = nn.Linear(context_dim, width)
        line = positions(SIDE, width // 2)
        place = torch.cat([line.repeat_interleave(SIDE, 0), line.repeat(SIDE, 1)], 1)
        self.position = nn.Parameter(place.reshape(1, tokens, width))
        self.time = nn.Sequential(nn.Linear(TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.level = nn.Embedding(levels + 1, width)
        self.reference = nn.Linear(reference_dim, width) if reference_dim else None
        self.label = nn.Embedding(len(labels) + 1, width) if labels else None
        self.parent = nn.Linear(context_dim, width)
        self.no_reference = nn.Parameter(torch.zeros(width))
        self.no_parent = nn.Parameter(torch.zeros(width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.last = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, context_dim)
        for layer in (self.modulation, self.last, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.level.weight, std=0.02)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    @property
    def context_shape(self) -> tuple[int, int]:
        """Tokens and their length."""
        return SIDE**2, int(self.config["context_dim"])

    @property
    def labels(self) -> list[str]:
        """Names of the labels that tissue may be asked for by."""
        return list(self.config["labels"])

    def standardised(self, contexts: Tensor) -> Tensor:
        """Contexts (..., context_dim) in the units that the network works in."""
        return (contexts.float() - self.mean) / self.deviation

    def restored(self, contexts: Tensor) -> Tensor:
        """The summarizer's units again; undoes `standardised`."""
        return contexts * self.deviation + self.mean

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
            contexts: (B, 64, context_dim), standardised and noised.
            time: (B,) timesteps, 0..999.
            level: (B,) level of each; `levels` is the null.
            reference: (B, D) raw embedding of a tile that the tissue should resemble; zeros are
                the null, and so is None.
            parent: (B, 16, context_dim) what `matching_quarter` cuts out of the parent's context,
                in the summarizer's units; zeros are the null, and so is None.
            label: (B,) place in `labels`; `len(labels)` is the null, and so is None.

        Returns:
            (B, 64, context_dim), standardised.
        """
        x = self.project(contexts) + self.position + self._parent(parent)
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

    def _parent(self, parent: Tensor | None) -> Tensor:
        if parent is None:
            return self.no_parent
        given = (parent != 0).flatten(1).any(1)[:, None, None]
        code = self.parent(self.standardised(parent).to(self.parent.weight.dtype)).unflatten(
            1, (HALF, HALF)
        )
        code = code.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
        return torch.where(given, code, self.no_parent)
