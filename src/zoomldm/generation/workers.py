"""Batches run side by side on the cores of a CPU."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
WIDE = 4  # a tile has this many windows at a level

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def side_by_side(
    function: Callable[[T], R], parts: Iterable[T], device: torch.device
) -> Iterator[R]:
    """Apply a function to each part, in order; on a CPU up to four at once on torch's threads.

    A batch of one small image keeps hardly more than one core busy, so batches side by side, each
    with a part of the threads, are nearly that many times faster. A batch's result depends only on
    its number of threads, not on the batches beside it.

    Args:
        function: runs networks; safe to call from several threads.
        parts: arguments of the calls.
        device: where the networks are; except on a CPU the parts run one after another.

    Returns:
        The function's results, each as soon as it is there.

    Examples:
        >>> list(side_by_side(lambda x: 2 * x, [1, 2, 3], torch.device("cpu")))
        [2, 4, 6]
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return map(function, parts)
    return _pool(threads).map(function, parts)


def _pool(threads: int) -> ThreadPoolExecutor:
    """A sensible number of workers for this many threads, each with an equal part of them."""
    with _lock:
        if threads not in _pools:
            workers = min(threads, WIDE)
            ready = threading.Barrier(workers)

            def start() -> None:
                torch.get_num_threads()  # else the first multi-threaded use resets the number
                torch.set_num_threads(threads // workers)
                ready.wait()  # so that each worker runs this once

            pool = ThreadPoolExecutor(workers, "zoomldm")
            for done in [pool.submit(start) for _ in range(workers)]:
                done.result()
            torch.set_num_threads(threads)  # for future threads: the workers' setting changed it
            _pools[threads] = pool
        return _pools[threads]


def _after_fork() -> None:
    global _lock
    _pools.clear()  # a forked child has none of their threads
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
