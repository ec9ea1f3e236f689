"""Batches of successive steps, each a function of the seed and its place alone."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor

from zoomldm.training.config import TrainConfig
from zoomldm.training.stage import Stage

Batch = dict[str, Tensor]


class Batches:
    """Draws the batches of a run; beside a GPU the next one is drawn while a step runs.

    Args:
        stage: draws them.
        config: its seed, `batch_size` and `accumulate` count.
        process: number of this process.
        ahead: whether to draw one batch ahead, in a thread.
    """

    def __init__(self, stage: Stage, config: TrainConfig, process: int, ahead: bool) -> None:
        self.stage, self.config, self.process = stage, config, process
        self.pool = ThreadPoolExecutor(1) if ahead else None
        self.next: Future[Batch] | None = None

    def _draw(self, step: int, part: int) -> Batch:
        place = [self.config.seed, step, self.process]
        if self.config.accumulate > 1:  # runs without it draw what they always drew
            place.append(part)
        return self.stage.batch(np.random.default_rng(place), self.config.batch_size)

    def at(self, step: int, part: int = 0) -> Batch:
        """The batch of a step; with `accumulate` the `part`-th of them, from 0. In order."""
        if self.pool is None:
            return self._draw(step, part)
        batch = self.next.result() if self.next else self._draw(step, part)
        step, part = divmod(step * self.config.accumulate + part + 1, self.config.accumulate)
        self.next = self.pool.submit(self._draw, step, part)
        return batch
