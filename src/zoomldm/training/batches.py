"""Batches of successive steps, each determined by the seed and its position alone."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor

from zoomldm.training.config import TrainConfig
from zoomldm.training.stage import Stage

Batch = dict[str, Tensor]


class Batches:
    """Draws the batches of a run; with a GPU the next one is drawn while a step runs.

    Args:
        stage: stage that draws them.
        config: gives the seed, `batch_size` and `accumulate`.
        process: index of this process.
        ahead: whether to draw one batch ahead, in a thread.
    """

    def __init__(self, stage: Stage, config: TrainConfig, process: int, ahead: bool) -> None:
        self.stage, self.config, self.process = stage, config, process
        self.pool = ThreadPoolExecutor(1) if ahead else None
        self.next: Future[Batch] | None = None

    def _draw(self, step: int, part: int) -> Batch:
        place = [self.config.seed, step, self.process]
        if self.config.accumulate > 1:  # without it, runs draw the same batches as before
            place.append(part)
        return self.stage.batch(np.random.default_rng(place), self.config.batch_size)

    def at(self, step: int, part: int = 0) -> Batch:
        """The batch of a step; with `accumulate` its `part`-th, from 0. Call in order."""
        if self.pool is None:
            return self._draw(step, part)
        batch = self.next.result() if self.next else self._draw(step, part)
        step, part = divmod(step * self.config.accumulate + part + 1, self.config.accumulate)
        self.next = self.pool.submit(self._draw, step, part)
        return batch
