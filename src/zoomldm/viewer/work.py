"""Work in threads, most urgent first; each call runs once, however many wait for it."""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

Rank = tuple[int, ...]
Result = TypeVar("Result")


class BusyError(Exception):
    """The queue is full; there should be room in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests at once; try again in {seconds} s")
        self.seconds = seconds


@dataclass
class _Job:
    work: Callable[[], Any]
    future: asyncio.Future
    rank: Rank
    waiting: int = 0
    started: bool = False


@dataclass
class Counts:
    """What a queue has done so far."""

    done: int = 0
    failed: int = 0
    joined: int = 0
    abandoned: int = 0
    refused: int = 0
    seconds: float = field(default=0.0)


class WorkQueue:
    """Calls functions in worker threads, for one event loop.

    Two requests with the same key share one call. A call that nobody waits for any longer is not
    begun. The lowest rank comes first, and among equal ranks the newest, because a viewer's last
    request is what is being looked at.

    Args:
        workers: number of threads.
        most: number of calls that may wait.
    """

    def __init__(self, workers: int, most: int) -> None:
        self.workers, self.most = workers, most
        self.counts = Counts()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="zoomldm-view")
        self._jobs: dict[Hashable, _Job] = {}
        self._heap: list[tuple[Rank, int, Hashable, _Job]] = []
        self._order = itertools.count(0, -1)
        self._running = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return len(self._jobs) - self._running

    @property
    def running(self) -> int:
        """Calls that have begun and not ended."""
        return self._running

    async def do(self, key: Hashable, work: Callable[[], Result], rank: Rank = ()) -> Result:
        """Return the result of `work`, called once for all that wait for `key`.

        Raises:
            BusyError: too many calls wait, or the queue is closed.
            Exception: whatever the call raised.
        """
        job = self._jobs.get(key)
        if job is None:
            if self._closed or self.waiting >= self.most:
                self.counts.refused += 1
                raise BusyError(self._patience())
            job = _Job(work, asyncio.get_running_loop().create_future(), rank)
            self._jobs[key] = job
            self._push(key, job)
        else:
            self.counts.joined += 1
            if rank < job.rank and not job.started:
                job.rank = rank
                self._push(key, job)
        job.waiting += 1
        self._pump()
        try:
            return await asyncio.shield(job.future)
        finally:
            job.waiting -= 1
            if not job.waiting and not job.started and self._jobs.get(key) is job:
                del self._jobs[key]
                job.future.cancel()
                self.counts.abandoned += 1

    def _push(self, key: Hashable, job: _Job) -> None:
        heapq.heappush(self._heap, (job.rank, next(self._order), key, job))

    def _patience(self) -> int:
        mean = self.counts.seconds / self.counts.done if self.counts.done else 1.0
        return min(30, max(1, math.ceil(mean * len(self._jobs) / self.workers)))

    def _pump(self) -> None:
        while self._running < self.workers and self._heap and not self._closed:
            rank, _, key, job = heapq.heappop(self._heap)
            if job.started or self._jobs.get(key) is not job or rank != job.rank:
                continue  # abandoned, or pushed again with another rank
            job.started = True
            self._running += 1
            task = asyncio.get_running_loop().create_task(self._run(key, job))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _run(self, key: Hashable, job: _Job) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            result = await loop.run_in_executor(self._pool, job.work)
        except BaseException as error:
            self.counts.failed += 1
            if not job.future.done():
                job.future.set_exception(error)
                job.future.exception()  # mark as seen, even if nobody waits
        else:
            self.counts.done += 1
            self.counts.seconds += loop.time() - start
            if not job.future.done():
                job.future.set_result(result)
        finally:
            self._running -= 1
            self._jobs.pop(key, None)
            self._pump()

    async def close(self) -> None:
        """Refuse waiting calls, and wait for running ones."""
        self._closed = True
        running = []
        for key, job in list(self._jobs.items()):
            if job.started:
                running.append(job.future)
            else:
                del self._jobs[key]
                if not job.future.done():
                    job.future.set_exception(BusyError(self._patience()))
                    job.future.exception()
        if running:
            await asyncio.wait(running)
        self._pool.shutdown(wait=False, cancel_futures=True)
