"""Contexts of an imaginary slide: drawn window by window, each under its parent's."""

import threading
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomldm.archive.manifest import Generated
from zoomldm.caching import Recent
from zoomldm.diffusion.learned_range import STEPS
from zoomldm.diffusion.noise import noise
from zoomldm.generation.contexts import check_conditions, draw_contexts
from zoomldm.generation.windows import SIDE, STRIDE, Key
from zoomldm.networks.summarizers import SIDE as TOKENS
from zoomldm.pipeline import ZoomLDMPipeline

COARSE = 5  # finest level that is drawn with the slide, and that reference and label act on
_FIELD = STEPS + 1  # of noise; no timestep is named so, nor the noise of single samples
_STEP = STRIDE * TOKENS // SIDE  # tokens from a window to the next
_HALF = TOKENS // 2
_MEMORY = 64 << 20


def quarter_of(parent: Tensor, key: Key) -> Tensor:
    """Tokens of a parent's context that lie over a child's window.

    A window of a level lies wholly under one of the level above, from its first token on or three
    and a half tokens farther: there neighbouring tokens are averaged.

    Args:
        parent: (64, width), of window (row // 2, col // 2) of the level above.
        key: row and column of the child's window.

    Returns:
        (16, width).
    """
    out = parent.unflatten(0, (TOKENS, TOKENS))
    for axis, place in enumerate(key):
        if place % 2:
            near, far = (out.narrow(axis, _STEP // 2 + i, _HALF) for i in (0, 1))
            out = (near + far) / 2
        else:
            out = out.narrow(axis, 0, _HALF)
    return out.flatten(0, 1)


class ImaginedContexts:
    """Contexts of windows at any level, each a function of seed, level and place alone.

    The coarsest level's are drawn by themselves, every other under the 16 tokens of the window
    above that it lies in. Windows that share a token share its noise. They are drawn when they are
    asked for, with all their ancestors. Safe to share between threads.

    Args:
        facts: what they are drawn from.
        pipeline: its embedding diffusion.
        batch: contexts per call of it; whole batches, for the last bits depend on it.

    Raises:
        PipelineError: the pipeline has no embedding diffusion, or does not know the level.
        ConfigError: one that takes no parent, or not the reference or label asked for.
    """

    def __init__(self, facts: Generated, pipeline: ZoomLDMPipeline, batch: int) -> None:
        self.facts, self.pipeline, self.batch = facts, pipeline, batch
        self.network = pipeline.embedding_diffusion
        self.coarsest = facts.coarsest
        pipeline.check_level(self.coarsest)
        asked = facts.reference is not None
        check_conditions(self.network, facts.guidance, asked, True, facts.label)
        self._kept: Recent[Tensor] = Recent(_MEMORY)
        self._lock = threading.RLock()

    def windows(self, level: int, keys: Sequence[Key]) -> Tensor:
        """Contexts (n, 64, width) of windows (row, col) of a level."""
        # Many windows have a coarse one above them, which threads should draw but once.
        with self._lock if level >= COARSE else nullcontext():
            return self._windows(level, keys)

    def _windows(self, level: int, keys: Sequence[Key]) -> Tensor:
        found: dict[Key, Tensor] = {}
        for key in dict.fromkeys(keys):
            held = self._kept.get((level, *key))
            if held is not None:
                found[key] = held
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        parents: Tensor | None = None
        if missing and level < self.coarsest:
            above = self.windows(level + 1, [(i // 2, j // 2) for i, j in missing])
            parents = torch.stack([quarter_of(p, k) for p, k in zip(above, missing, strict=True)])
        for start in range(0, len(missing), self.batch):
            part = missing[start : start + self.batch]
            own = None if parents is None else parents[start : start + self.batch]
            for key, context in zip(part, self._drawn(level, part, own), strict=False):
                found[key] = context.clone()  # alone: what is kept would keep the whole batch
                self._kept.put((level, *key), found[key], found[key].nbytes)
        return torch.stack([found[key] for key in keys])

    def patch(self, level: int, row: int, col: int) -> Tensor:
        """Context (64, width) of the patch at place (row, col) of its level's own lattice.

        Its tokens are those of the windows over it; of two that hold a token the first is taken.
        """
        spans = [range(TOKENS * n, TOKENS * (n + 1)) for n in (row, col)]
        places = [[(max(t - 1, 0) // _STEP, t) for t in span] for span in spans]
        keys = [(i, j) for i in {p[0] for p in places[0]} for j in {p[0] for p in places[1]}]
        drawn = dict(zip(keys, self.windows(level, keys), strict=True))
        return torch.stack(
            [
                drawn[i, j][TOKENS * (r - _STEP * i) + c - _STEP * j]
                for i, r in places[0]
                for j, c in places[1]
            ]
        )

    def _drawn(self, level: int, keys: list[Key], parents: Tensor | None) -> Tensor:
        facts, device = self.facts, self.pipeline.device
        keys = keys + [keys[-1]] * (self.batch - len(keys))
        start = torch.from_numpy(np.stack([self._noise(level, key) for key in keys])).to(device)
        if parents is not None:
            parents = torch.cat([parents, parents[-1:].expand(len(keys) - len(parents), -1, -1)])
        coarse = level >= COARSE
        reference = None
        if coarse and facts.reference is not None:
            given = torch.tensor(facts.reference.embedding, dtype=torch.float32, device=device)
            reference = given.expand(len(keys), -1)
        return draw_contexts(
            self.network,
            level,
            start,
            facts.steps if coarse else facts.finer_steps,
            facts.guidance if coarse else 1.0,
            reference,
            parents,
            facts.label if coarse else None,
            self.pipeline.outline_channels,
            facts.solver,
        )

    def _noise(self, level: int, key: Key) -> NDArray[np.float32]:
        width = self.pipeline.summarizer.context_shape[1]
        row, col = (place * _STEP for place in key)
        step = _FIELD + (self.facts.attempt if level == self.coarsest else 0)
        field = noise(self.facts.seed, level, step, row, col, (width, TOKENS, TOKENS))
        return np.ascontiguousarray(field.reshape(width, -1).T)
