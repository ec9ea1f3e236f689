"""Work on many parts of a slide, several at once, taken in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from zoomldm.cores import cores

Part = TypeVar("Part")
Made = TypeVar("Made")

FEW = min(4, cores())  # where each holds up to 200 MB of what it reads
MANY = min(8, cores())  # where each holds a few tiles


def in_order(
    work: Callable[[Part], Made], parts: Iterable[Part], threads: int, ahead: int = 0
) -> Iterator[tuple[Part, Made]]:
    """Each part with what `work` makes of it, begun ahead of what is asked for.

    Args:
        work: called in threads of its own; reads of slides let each other run.
        parts: taken as they are needed.
        threads: at once.
        ahead: parts that are begun before they are asked for, `threads` at least.

    Raises:
        Exception: what `work` raised, at its part; parts that were not begun by then never are.
    """
    pending: deque[tuple[Part, Future[Made]]] = deque()
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
