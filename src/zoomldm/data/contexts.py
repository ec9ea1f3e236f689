"""Training contexts: a frozen summarizer's output for grids of archives, held in memory."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from zoomldm.archive import Archive
from zoomldm.errors import ConfigError
from zoomldm.geometry.lattice import cut_square, tiles_within
from zoomldm.geometry.levels import COARSEST, COUNT, NAMES, patch_tiles
from zoomldm.geometry.withheld import is_withheld, withheld_block
from zoomldm.networks.context_dit import matching_quarter
from zoomldm.pipeline import ZoomLDMPipeline

_log = logging.getLogger(__name__)

MOST = (4096, 4096, 3072, 2048, 2048, 1024, 512, 384)  # contexts by level: bounds memory and start
_CHUNK = (64, 64, 64, 64, 32, 16, 8, 4)  # grids summarised at once, by level
_MIN_RELATIVE_TISSUE = 0.25  # least tissue of a patch, relative to its level's largest on the slide
_AT_ONCE = 256  # contexts whose moments are computed at once
_MARGIN = 2  # tiles around a patch that a reference may lie in


@dataclass(frozen=True)
class LevelContexts:
    """Contexts of one level.

    Attributes:
        patches: (n, 3) int: archive, row and column of the first tile.
        contexts: (n, tokens, width) float16.
        parents: (n, tokens / 4, width) float16, the matching quarter of a parent's context; zeros
            if there is none.
    """

    patches: np.ndarray
    contexts: np.ndarray
    parents: np.ndarray


class ContextStore:
    """Contexts of patches of several archives at any tile offset, with parents and references.

    The contents are a function of pipeline, archives and arguments: a run that was interrupted
    gets the same values again.

    Args:
        pipeline: its summarizer computes the contexts.
        archives: opened archives; latents aren't needed.
        withheld_fraction: fraction of each archive's tissue that is withheld; 0 for none.
        withheld: store the patches of the spatial hold-out regions in place of the others.
        most: most contexts per level; None for `MOST`. What is left out of training is logged.
        seed: seed of the choice if there are more than `most`.
        hold: `patches` alone, their `contexts` too, or `all`, parents too; the rest is empty.

    Raises:
        ConfigError: no patch at all.
    """

    def __init__(
        self,
        pipeline: ZoomLDMPipeline,
        archives: Sequence[Archive],
        withheld_fraction: float = 0.1,
        withheld: bool = False,
        most: int | None = None,
        seed: int = 0,
        hold: Literal["patches", "contexts", "all"] = "all",
    ) -> None:
        self.pipeline, self.hold = pipeline, hold
        self.archives = list(archives)
        self._masks = [a.mask for a in self.archives]
        self._blocks = [
            withheld_block(m, withheld_fraction, a.turn) if withheld_fraction else np.zeros_like(m)
            for a, m in zip(self.archives, self._masks, strict=True)
        ]
        self._backgrounds = [a.background.astype(np.float16) for a in self.archives]
        self._embeddings = [
            a.embeddings(0, a.rows, 0, a.cols).astype(np.float16) for a in self.archives
        ]
        self.found = [0] * COUNT  # patches available at each level
        self.levels = [
            self._level(k, withheld, MOST[k] if most is None else most, seed) for k in range(COUNT)
        ]
        if not any(len(held.patches) for held in self.levels) and not withheld:
            raise ConfigError("archives hold no tissue to train on; give others")
        if hold == "all" and not withheld:
            self._log_left_out()

    def _log_left_out(self) -> None:
        left = [
            f"{len(held.patches):,} of {found:,} at {NAMES[level]}"
            for level, (held, found) in enumerate(zip(self.levels, self.found, strict=True))
            if len(held.patches) < found
        ]
        if left:
            _log.warning(
                "contexts held of the patches that there are: %s; the setting `contexts` holds "
                "more, in memory",
                ", ".join(left),
            )

    def _level(self, level: int, withheld: bool, most: int, seed: int) -> LevelContexts:
        rng = np.random.default_rng([seed, level])
        starts = [self._starts(n, level, withheld) for n in range(len(self.archives))]
        patches = np.concatenate(starts)
        if level >= self.pipeline.levels:
            patches = patches[:0]
        self.found[level] = len(patches)
        chosen = np.sort(rng.permutation(len(patches))[:most])
        patches = patches[chosen]
        tokens, width = self.pipeline.summarizer.context_shape
        if self.hold == "patches":
            return LevelContexts(patches, *np.zeros((2, 0, tokens, width), np.float16))
        contexts = self._summarised(level, patches)
        if self.hold == "contexts":
            return LevelContexts(patches, contexts, np.zeros((0, tokens // 4, width), np.float16))
        parents = np.zeros((len(patches), tokens // 4, width), np.float16)
        if level < min(COARSEST, self.pipeline.levels - 1):
            corner = rng.integers(0, 2, (len(patches), 2))
            above = patches.copy()
            above[:, 1:] -= corner * patch_tiles(level)
            known = np.flatnonzero(~self._is_withheld(above, level + 1))
            whole = self._summarised(level + 1, above[known])
            row, col = torch.from_numpy(corner[known]).unbind(1)
            parents[known] = matching_quarter(torch.from_numpy(whole), row, col).numpy()
        return LevelContexts(patches, contexts, parents)

    def _starts(self, number: int, level: int, withheld: bool) -> np.ndarray:
        """First tiles (n, 3) of an archive's patches that have enough tissue."""
        mask, side = self._masks[number], patch_tiles(level)
        r, c = np.meshgrid(*(np.arange(1 - side, n) for n in mask.shape), indexing="ij")
        r, c = r.ravel(), c.ravel()
        tissue = tiles_within(mask, r, c, side)
        fits = tissue >= max(1, _MIN_RELATIVE_TISSUE * tissue.max(initial=1))
        r, c = r[fits], c[fits]
        out = is_withheld(mask, self._blocks[number], level, r, c)
        selected = out if withheld else ~out
        return np.stack([np.full(selected.sum(), number), r[selected], c[selected]], 1)

    def _is_withheld(self, patches: np.ndarray, level: int) -> np.ndarray:
        out = np.zeros(len(patches), bool)
        for number, (mask, block) in enumerate(zip(self._masks, self._blocks, strict=True)):
            own = patches[:, 0] == number
            out[own] = is_withheld(mask, block, level, *patches[own, 1:].T)
        return out

    def grids(self, level: int, patches: np.ndarray) -> np.ndarray:
        """Grids (m, 2**level, 2**level, D) float16 of `patches` (m, 3)."""
        side = patch_tiles(level)
        out = np.empty((len(patches), side, side, self.pipeline.embedding_dim), np.float16)
        for place, (number, row, col) in enumerate(patches.tolist()):
            cut_square(self._embeddings[number], row, col, self._backgrounds[number], out[place])
        return out

    @torch.no_grad()
    def _summarised(self, level: int, patches: np.ndarray) -> np.ndarray:
        parts = [np.empty((0, *self.pipeline.summarizer.context_shape), np.float16)]
        for start in range(0, len(patches), _CHUNK[level]):
            grids = self.grids(level, patches[start : start + _CHUNK[level]])
            parts.append(self.pipeline.context(grids, level).half().cpu().numpy())
        return np.concatenate(parts)

    def reference(self, level: int, index: int, rng: np.random.Generator) -> np.ndarray:
        """Embedding (D,) float32 of a tissue tile in or beside a patch; zeros if there is none.

        At level 0 it is never the patch's own tile: a reference asks for tissue like it.
        """
        number, row, col = self.levels[level].patches[index].tolist()
        top, left = max(row - _MARGIN, 0), max(col - _MARGIN, 0)
        end = patch_tiles(level) + _MARGIN
        usable = (self._masks[number] & ~self._blocks[number])[top : row + end, left : col + end]
        if level == 0 and row >= 0 and col >= 0:
            usable = usable.copy()
            usable[row - top, col - left] = False
        places = np.flatnonzero(usable)
        pick = rng.random()
        if not len(places):
            return np.zeros(self.pipeline.embedding_dim, np.float32)
        r, c = divmod(int(places[int(pick * len(places))]), usable.shape[1])
        return self._embeddings[number][top + r, left + c].astype(np.float32)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std (width,) float32 of each dimension; every level has the same weight."""
        held = [k.contexts for k in self.levels if len(k.contexts)]
        mean = np.mean([c.mean((0, 1), dtype=np.float64) for c in held], 0)
        square = np.mean([np.square(c, dtype=np.float32).mean((0, 1)) for c in held], 0)
        deviation = np.sqrt(np.maximum(square - mean**2, 1e-8))
        return mean.astype(np.float32), deviation.astype(np.float32)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Means (levels, width) and covariances (levels, width, width) float32 of tokens by level.

        Both are zeros for a level without contexts.
        """
        width = self.pipeline.summarizer.context_shape[1]
        means = np.zeros((self.pipeline.levels, width), np.float32)
        covariances = np.zeros((self.pipeline.levels, width, width), np.float32)
        for level, held in enumerate(self.levels):
            if not len(held.contexts):
                continue
            total, tokens = np.zeros((width, width)), held.contexts.shape[1]
            means[level] = mean = held.contexts.mean((0, 1), dtype=np.float64)
            for part in np.array_split(held.contexts, -(-len(held.contexts) // _AT_ONCE)):
                apart = part.reshape(-1, width).astype(np.float32) - mean.astype(np.float32)
                total += apart.T @ apart
            covariances[level] = total / (len(held.contexts) * tokens)
        return means, covariances
