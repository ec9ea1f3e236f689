"""Parallel work on many parts of a slide, with results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from zoomldm.cores import cores

Part = TypeVar("Part")
Result = TypeVar("Result")

FEW = min(4, cores())  # threads if each needs up to 200 MB for what it reads
MANY = min(8, cores())  # threads if each needs only a few tiles


def in_order(
    work: Callable[[Part], Result], parts: Iterable[Part], threads: int, ahead: int = 0
) -> Iterator[tuple[Part, Result]]:
    """Yield each part with the result of `work` on it; work on later parts starts early.

    Args:
        work: called in worker threads; reads of slides run concurrently.
        parts: consumed as needed.
        threads: number of worker threads.
        ahead: parts to start before they are requested, at least `threads`.

    Raises:
        Exception: whatever `work` raised, at its part; parts not yet started are cancelled.
    """
    pending: deque[tuple[Part, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part in parts:
                pending.append((part, pool.submit(work, part)))
                if len(pending) > max(threads, ahead):
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
