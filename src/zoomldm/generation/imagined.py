"""Contexts of an imaginary slide: sampled window by window, each under its parent's."""

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

COARSE = 5  # finest level sampled with the slide, and the finest that reference and label act on
_FIELD = STEPS + 1  # noise key; used by no timestep nor by the noise of single samples
_STEP = STRIDE * TOKENS // SIDE  # tokens from one window to the next
_HALF = TOKENS // 2
_MEMORY = 64 << 20


def quarter_of(parent: Tensor, key: Key) -> Tensor:
    """Tokens of a parent's context that lie over a child's window.

    A window lies entirely under one of the level above. It starts at that window's first token,
    or three and a half tokens further; there neighbouring tokens are averaged.

    Args:
        parent: (64, width), context of window (row // 2, col // 2) of the level above.
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
    """Contexts of windows at any level, each a function of seed, level and position alone.

    Those of the coarsest level are sampled on their own, all others under the
    16 tokens of the window above that they lie in. Windows that share a token share its noise.
    Contexts are sampled on demand, with all their ancestors. Thread-safe.

    Args:
        spec: what they are sampled from.
        pipeline: the pipeline with the embedding diffusion.
        batch: contexts per call of it; batches are always full, since the last bits depend on
            the batch size.

    Raises:
        PipelineError: the pipeline has no embedding diffusion, or does not know the level.
        ConfigError: it takes no parent, or not the requested reference or label.
    """

    def __init__(self, spec: Generated, pipeline: ZoomLDMPipeline, batch: int) -> None:
        self.spec, self.pipeline, self.batch = spec, pipeline, batch
        self.network = pipeline.embedding_diffusion
        self.coarsest = spec.coarsest
        pipeline.check_level(self.coarsest)
        asked = spec.reference is not None
        check_conditions(self.network, spec.guidance, asked, True, spec.label)
        self._cache: Recent[Tensor] = Recent(_MEMORY)
        self._lock = threading.RLock()

    def windows(self, level: int, keys: Sequence[Key]) -> Tensor:
        """Contexts (n, 64, width) of windows (row, col) of a level."""
        # Many windows share a coarse ancestor, which threads should sample only once.
        with self._lock if level >= COARSE else nullcontext():
            return self._windows(level, keys)

    def _windows(self, level: int, keys: Sequence[Key]) -> Tensor:
        found: dict[Key, Tensor] = {}
        for key in dict.fromkeys(keys):
            held = self._cache.get((level, *key))
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
            for key, context in zip(part, self._sampled(level, part, own), strict=False):
                found[key] = context.clone()  # a view would keep the whole batch in memory
                self._cache.put((level, *key), found[key], found[key].nbytes)
        return torch.stack([found[key] for key in keys])

    def patch(self, level: int, row: int, col: int) -> Tensor:
        """Context (64, width) of the patch at position (row, col) of its level's own lattice.

        Its tokens come from the windows over it; one that two windows hold comes from the first.
        """
        spans = [range(TOKENS * n, TOKENS * (n + 1)) for n in (row, col)]
        places = [[(max(t - 1, 0) // _STEP, t) for t in span] for span in spans]
        keys = [(i, j) for i in {p[0] for p in places[0]} for j in {p[0] for p in places[1]}]
        windows = dict(zip(keys, self.windows(level, keys), strict=True))
        return torch.stack(
            [
                windows[i, j][TOKENS * (r - _STEP * i) + c - _STEP * j]
                for i, r in places[0]
                for j, c in places[1]
            ]
        )

    def _sampled(self, level: int, keys: list[Key], parents: Tensor | None) -> Tensor:
        spec, device = self.spec, self.pipeline.device
        keys = keys + [keys[-1]] * (self.batch - len(keys))
        start = torch.from_numpy(np.stack([self._noise(level, key) for key in keys])).to(device)
        if parents is not None:
            parents = torch.cat([parents, parents[-1:].expand(len(keys) - len(parents), -1, -1)])
        coarse = level >= COARSE
        reference = None
        if coarse and spec.reference is not None:
            given = torch.tensor(spec.reference.embedding, dtype=torch.float32, device=device)
            reference = given.expand(len(keys), -1)
        return draw_contexts(
            self.network,
            level,
            start,
            spec.steps if coarse else spec.finer_steps,
            spec.guidance if coarse else 1.0,
            reference,
            parents,
            spec.label if coarse else None,
            self.pipeline.outline_channels,
            spec.solver,
        )

    def _noise(self, level: int, key: Key) -> NDArray[np.float32]:
        width = self.pipeline.summarizer.context_shape[1]
        row, col = (place * _STEP for place in key)
        step = _FIELD + (self.spec.attempt if level == self.coarsest else 0)
        field = noise(self.spec.seed, level, step, row, col, (width, TOKENS, TOKENS))
        return np.ascontiguousarray(field.reshape(width, -1).T)
